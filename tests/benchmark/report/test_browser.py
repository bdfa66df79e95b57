"""The page in a browser: figures are shown, columns sorted, rows filtered, names are text, and no request leaves it."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ntk_select.benchmark.report.figures import caption_parts, figure_bytes
from ntk_select.benchmark.report.page import Drawn, page
from ntk_select.benchmark.report.tables import content

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on PATH")]
EVIL = "<script>document.title = 'taken'</script>"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync "
    "--window-size=1200,900"
)


@pytest.fixture(scope="module")
def results(made):
    experts = {**made.EXPERTS, EVIL: replace(made.EXPERTS["photos-net_b"], name=EVIL, digest="evil")}
    return made.without(
        made.world(experts=experts), lambda row: (row["task"], row["expert"], row["images_per_class"]) != ("cars", "photos-net_b", 20)
    )


@pytest.fixture(scope="module")
def file(results, tmp_path_factory):
    figures = [Drawn(name, name, caption_parts(results, name), figure_bytes(results, name, "svg")) for name in ("figure_2", "figure_6")]
    figures.append(Drawn("figure_8", "a picture of dots", png=figure_bytes(results, "figure_8", "png")))
    place = tmp_path_factory.mktemp("page") / "index.html"
    text = page(results, figures, {name: content(results, name) for name in ("scores", "truth", "experts")}, datetime.now(UTC))
    place.write_text(text, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def browser(file, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    found.get(file.as_uri())
    yield found
    found.quit()


def column(browser, table: str, place: int) -> list:
    """What a column is sorted by, of the rows that are shown, from top to bottom; None where there is nothing."""
    code = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].filter(row => row.checkVisibility())
        .map(row => row.cells[arguments[1]].dataset.value ?? null)"""
    return browser.execute_script(code, table, place)


def press(browser, table: str, place: int, key: str | None = None):
    """Clicks the heading of a column, or types a key on it; gives its aria-sort."""
    head = browser.find_elements("css selector", f"#{table} thead th")[place]
    button = head.find_element("css selector", "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    if key is None:
        button.click()
    else:
        button.send_keys(key)
    return head.get_attribute("aria-sort")


def test_it_says_what_it_is_and_no_name_is_run_as_a_script(browser, results):
    assert browser.title == "Model selection on made_up"
    cells = browser.execute_script("return [...document.querySelectorAll('#experts tbody tr')].map(row => row.cells[0].textContent)")
    assert cells == list(results.experts)
    assert EVIL in cells


def test_every_figure_is_visible(browser):
    sizes = browser.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth, i.clientHeight, i.checkVisibility()])"
    )
    assert len(sizes) == 3
    assert all(complete and natural > 300 and width > 300 and height > 100 and seen for complete, natural, width, height, seen in sizes)


def test_nothing_fails_and_no_request_leaves_the_file(browser, file):
    assert browser.get_log("browser") == []
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith("data:") for name in asked)
    code = """const done = arguments[0];
        document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective), {once: true});
        new Image().src = 'https://example.invalid/a.png';"""
    assert browser.execute_async_script(code) == "img-src"
    browser.get_log("browser")


def test_a_click_on_a_heading_sorts_by_its_numbers_and_a_second_one_reverses_them(browser, results):
    place = [each.name for each in content(results, "truth").columns].index("accuracy")
    before = column(browser, "truth", place)
    assert press(browser, "truth", place) == "descending"
    numbers = [float(value) for value in column(browser, "truth", place) if value is not None]
    assert numbers == sorted(numbers, reverse=True)
    assert press(browser, "truth", place) == "ascending"
    after = column(browser, "truth", place)
    assert [value is None for value in after] == sorted(value is None for value in before)
    assert None in after
    assert [float(value) for value in after if value is not None] == sorted(numbers)
    assert before != after


def test_text_is_sorted_by_the_keyboard_too_and_one_column_at_a_time_is_marked(browser):
    assert press(browser, "scores", 3) == "descending"
    assert press(browser, "scores", 0, "\n") == "ascending"
    names = column(browser, "scores", 0)
    assert names == sorted(names)
    assert len(browser.find_elements("css selector", "#scores th[aria-sort]")) == 1


def test_the_box_filters_rows_by_all_its_words(browser):
    total = len(column(browser, "truth", 0))
    box = browser.find_element("css selector", "#filter-truth")
    box.send_keys("BIRDS net_b")
    shown = column(browser, "truth", 0)
    assert 0 < len(shown) < total
    assert set(shown) == {"birds"}
    assert all("net_b" in name or "script" in name for name in column(browser, "truth", 2))
    assert browser.find_element("css selector", "#truth [role=status]").text == f"{len(shown)} of {total} rows"
    box.clear()
    box.send_keys("no such row")
    assert column(browser, "truth", 0) == []
    box.clear()
    box.send_keys(" ")
    assert len(column(browser, "truth", 0)) == total


def test_a_phone_scrolls_tables_and_not_the_page(browser):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True})
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert browser.execute_script("const box = document.querySelector('#scores .scroll'); return box.scrollWidth > box.clientWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_narrow_window_shows_whole_figures_and_a_click_shows_one_in_full_size(browser):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 500, "height": 700, "deviceScaleFactor": 1, "mobile": True})
    boxes = "return [...document.querySelectorAll('.frame')].map(frame => [frame.scrollWidth, frame.clientWidth])"
    assert all(inside <= frame for inside, frame in browser.execute_script(boxes))
    first = browser.find_element("css selector", ".zoom")
    browser.execute_script("arguments[0].click()", first)
    inside, frame = browser.execute_script(boxes)[0]
    assert inside > frame
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 500
    browser.execute_script("arguments[0].click()", first)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(browser, scheme):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    code = "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    ink, paper = (sum(int(part) for part in colour.strip("rgb()").split(",")) for colour in browser.execute_script(code))
    assert abs(ink - paper) > 500
    assert (paper < ink) == (scheme == "dark")
