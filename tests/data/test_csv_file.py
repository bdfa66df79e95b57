"""A CSV file of paths, labels and splits is a task, and every mistake in it is named with its line."""

import itertools
import math

import numpy as np
import pytest

from ntk_select.data import load_task
from ntk_select.data.columns import NUMBER
from ntk_select.errors import DataError, TaskError
from ntk_select.tasks.task import Task

FILES = ["img/1.png", "img/2.png", "img/3.png", "img/4.png"]
ROWS = [("img/1.png", "cat", "train"), ("img/2.png", "dog", "train"), ("img/3.png", "cat", "test"), ("img/4.png", "dog", "test")]


@pytest.fixture
def table(folder_of):
    """table(text, files) writes photos/a.csv beside images, and gives its path."""

    def write(text, files=FILES, name="photos"):
        path = folder_of(files, name) / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def lines(rows, header=("path", "label", "split"), mark=","):
    return "\n".join(mark.join(map(str, row)) for row in (header, *rows)) + "\n"


def by_content(task, root):
    """Class name and split of each file, found by the bytes of its image."""
    files = {path.read_bytes(): path.relative_to(root).as_posix() for path in root.rglob("*.*")}
    splits = {"train": (task.images, task.labels)} | ({} if task.test_images is None else {"test": (task.test_images, task.test_labels)})
    return {
        files[images.content(i)]: (task.class_names[label], split) for split, (images, labels) in splits.items() for i, label in enumerate(labels)
    }


EXPECTED = {path: (label, split) for path, label, split in ROWS}


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize(
    "header", [("path", "label", "split"), ("File Name", "CLASS", "Set"), ("image_path", "target", "Subset"), ("filename", "labels", "partition")]
)
def test_rows_become_labelled_images_whatever_the_columns_are_called(table, mark, header):
    path = table(lines(ROWS, header, mark))
    assert by_content(load_task(path), path.parent) == EXPECTED


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: text.replace(b"\n", b"\n\n,,\n"),
        lambda text: text.replace(b",", b" , "),
        lambda text: text.replace(b"img/1.png", b'"img/1.png"').replace(b"dog", b'"dog"'),
        lambda text: text.replace(b"\n", b",,\n"),
        lambda text: text.replace(b"img/", b"./img/../img/"),
        lambda text: text.replace(b"img/", b"img\\"),
        lambda text: text.replace(b".png", b""),
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b"train", b"Training").replace(b"test", b"VAL"),
        lambda text: text + text.splitlines()[1],
    ],
    ids=["mark", "CRLF", "CR", "empty rows", "spaces", "quotes", "empty columns", "dots", "Windows", "no suffix", "no newline", "words", "repeated"],
)
def test_files_as_programs_write_them_are_read_the_same(table, change):
    path = table(change(lines(ROWS).encode()))
    assert by_content(load_task(path), path.parent) == EXPECTED


def test_quoted_values_may_have_separators_quotes_and_any_letters(table):
    path = table('path,label\n"a, b/1.png","Löwe, ""groß"""\nimg/1.png,cat\n', [*FILES, "a, b/1.png"])
    assert by_content(load_task(path), path.parent) == {"a, b/1.png": ('Löwe, "groß"', "train"), "img/1.png": ("cat", "train")}


def test_columns_can_be_chosen(table):
    path = table("id,path,label,kind,part\n" + "".join(f"{i},img/{i + 1}.png,x,{'ab'[i % 2]},{'train' if i < 2 else 'test'}\n" for i in range(4)))
    assert load_task(f"csv:{path}?label=kind").class_names == ("a", "b")
    task = load_task(f"csv:{path}?label=KIND&split=part&image=path")
    assert (len(task.labels), len(task.test_labels), task.name) == (2, 2, "a")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "-1", "2"], ("-1", "2", "9", "10")),
        (["10.0", "9", "2.0", "1e1"], ("2", "9", "10")),
        (["02", "01", "10", "11"], ("01", "02", "10", "11")),
        (["1", "01", "2", "3"], ("1", "2", "3")),
        (["c10", "c9", "c1", "C1"], ("C1", "c1", "c9", "c10")),
        (["1", "2", "x", "10"], ("1", "2", "10", "x")),
        (["nan", "2", "x", "10"], ("2", "10", "nan", "x")),
        (["12345678901234567890", "12345678901234567891", "3", "2"], ("2", "3", "12345678901234567890", "12345678901234567891")),
    ],
)
def test_numbers_are_classes_in_the_order_of_numbers_and_names_in_natural_order(table, labels, names):
    path = table(lines(zip(FILES, labels, strict=True), ("path", "label")))
    task = load_task(path)
    assert task.class_names == names
    value = {name: number for number, name in enumerate(names)}
    expected = [value.get(label, value.get(label.lstrip("0").partition(".")[0].replace("1e1", "10"))) for label in labels]
    found = by_content(task, path.parent)
    assert [value[found[file][0]] for file in FILES] == expected


def test_of_several_test_splits_the_usual_one_is_taken_and_the_rest_is_told(table):
    rows = [*ROWS[:3], (*ROWS[3][:2], "valid")]
    task = load_task(table(lines(rows)))
    assert len(task.test_labels) == 1
    assert task.details["warnings"][0] == "Ignored, because there is a split 'test': 1 image of valid."


def test_images_beyond_the_folder_need_a_root(table, tmp_path, folder_of):
    other = folder_of(["1.png", "2.png"], "other")
    absolute = lines([(other / "1.png", "a"), (other / "2.png", "b")], ("path", "label"))
    above = lines([("../other/1.png", "a"), ("../other/2.png", "b")], ("path", "label"))
    path = table(absolute)
    for text in (absolute, above):
        path.write_text(text)
        with pytest.raises(DataError, match=rf"2 of 2 images are outside the folder {path.parent}: .*\(line 2\), .*Try: csv:FILE@ROOT, where ROOT"):
            load_task(path)
        for root in (other, tmp_path):
            assert len(load_task(f"csv:{path}@{root}").labels) == 2
        with pytest.raises(DataError, match="2 of 2 images are outside the folder .*img"):
            load_task(f"csv:{path}@{path.parent / 'img'}")
    path.write_text(lines([("1.png", "a"), ("2.png", "b")], ("path", "label")))
    task = load_task(f"csv:{path}@{other}")
    assert task.images.content(0) == (other / "1.png").read_bytes()
    path.write_text(lines([("/etc/hostname", "a"), ("C:\\photos\\1.png", "b"), (r"\\server\1.png", "b")], ("path", "label")))
    with pytest.raises(DataError, match=r"3 of 3 images are outside"):
        load_task(f"csv:{path}@{tmp_path}")


def test_absolute_paths_inside_the_folder_are_allowed(table):
    path = table("")
    path.write_text(lines([(path.parent / row[0], *row[1:]) for row in ROWS]))
    assert by_content(load_task(path), path.parent) == EXPECTED


def test_missing_images_are_named_with_their_lines(table):
    with pytest.raises(
        DataError, match=r"2 of 4 images do not exist in .*photos: 'img/9.png' \(line 4\), 'gone/4.png' \(line 5\)\. Try: csv:FILE@ROOT"
    ):
        load_task(table(lines([*ROWS[:2], ("img/9.png", "cat", "test"), ("gone/4.png", "dog", "test")])))


def test_a_folder_that_cannot_be_listed_is_named(table, monkeypatch):
    path = table(lines(ROWS))

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ntk_select.data.csv_file.os.scandir", refuse)
    with pytest.raises(DataError, match=r"photos/img: the folder cannot be read \(Permission denied\)\. Try: give yourself"):
        load_task(path)


WRONG = {
    "empty": (b"", "is empty. Try: a header and one row for each image"),
    "separators only": (b";\n;;\n", "is empty. Try: a header and one row for each image"),
    "one column": (b"path\na.png\n", "the first line has one column, 'path'; allowed separators are comma, semicolon and tab"),
    "no header": (b"img/1.png,cat\nimg/2.png,dog\n", "the first line names no columns, but an image. Try: put a line above it, as in: path,label"),
    "no path": (b"photo,label\n", r"no column has a usual name of the image. Columns: photo, label. Try: 'csv:.*\?image=COLUMN'"),
    "no label": (b"path,diagnosis\n", r"no column has a usual name of the label. Columns: path, diagnosis. Try: 'csv:.*\?label=COLUMN'"),
    "two paths": (b"path,file,label\n", r"several columns could be the image: 'path', 'file'. Choose one. Try: 'csv:.*\?image=COLUMN'"),
    "two labels": (b"path,label,class\n", r"several columns could be the label: 'label', 'class'. Choose one. Try: 'csv:.*\?label=COLUMN'"),
    "no rows": (b"path,label\n", "there are no rows below the header"),
    "UTF-16": ("path,label\n".encode("utf-16"), "the text is UTF-16; allowed is UTF-8. Try: iconv -f UTF-16"),
    "Latin-1": ("path,label\nimg/1.png,Löwe\n".encode("latin-1"), "byte 0xf6 in line 2 is not UTF-8, .*Windows-1252. Try: iconv -f WINDOWS-1252"),
    "null": (b"path,label\nimg/1.png,c\0t\n", "is not text, but perhaps a spreadsheet or an archive. Try: save the table as CSV in UTF-8"),
    "Excel": (b"PK\3\4xl/workbook.xml", "is not text, but perhaps a spreadsheet"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is not text, but perhaps a spreadsheet"),
    "Parquet": (b"PAR1\x15\0\x90", "is not text, but perhaps a spreadsheet"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a.csv is a Git LFS pointer"),
    "short row": (b"path,label,split\nimg/1.png,cat\n", r"a.csv, line 2: has 2 values, the header 3. Try: quote values that contain ','"),
    "long row": (b"path,label\nimg/1.png,cat,dog\n", r"line 2: has 3 values, the header 2"),
    "open quote": (b'path,label\n"img/1.png,cat\n', r"line 2: cannot be read as CSV \(.*\). Try: close the quotes"),
    "huge value": (b"path,label\n" + b"a" * 200_000 + b",cat\n", r"line 2: cannot be read as CSV \(field larger"),
    "missing values": (
        b"path,label,split\n,cat,train\nimg/1.png,,train\nimg/2.png,,\n",
        "no path in line 2; no label in lines 3, 4; no split in line 4",
    ),
    "URL": (b"path,label\nhttps://x.org/1.png,cat\n", r"'https://x.org/1.png' \(line 2\): images must be files. Try: download them"),
    "split": (
        b"path,label,split\nimg/1.png,a,train\nimg/2.png,b,fold1\n",
        "the split 'fold1' in line 3 is unknown. Allowed: train, .*val.* Try: train or test",
    ),
    "no train": (b"path,label,split\nimg/1.png,a,test\n", "no row has the split train; found: test"),
    "two classes": (b"path,label\nimg/1.png,a\nimg/1.png,b\n", r"'img/1.png' is in line 2 with the label 'a' and in line 3 with 'b'"),
    "two splits": (b"path,label,split\nimg/1.png,a,train\nimg/1.png,a,test\n", "is in line 2 with the split 'train' and in line 3 with 'test'"),
    "fractions": (b"path,label\nimg/1.png,1\nimg/2.png,0.5\n", r"labels are numbers with fractions, as '0.5': measurements.*\?label=COLUMN"),
    "missing numbers": (
        b"path,label\nimg/1.png,1.0\nimg/2.png,NaN\nimg/3.png,2.0\n",
        r"labels are numbers, and 1 of 3 are missing \('NaN'\). Try: leave these rows out, or give their class another name",
    ),
    "format": (b"path,label\nimg/1.png,1\nimg/v.mp4,2\nimg/p.psd,2\n", "1 Photoshop file cannot be read: .*img/p.psd. Try: export as PNG"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_the_remedy(table, case):
    content, sentence = WRONG[case]
    path = table(content, dict.fromkeys(FILES) | {"img/v.mp4": b"x", "img/p.psd": b"8BPS"})
    with pytest.raises(DataError, match=sentence):
        load_task(path)


def test_one_class_is_no_task(table):
    with pytest.raises(TaskError, match="one class only"):
        load_task(table(lines([(file, "cat") for file in FILES], ("path", "label"))))


@pytest.mark.parametrize(
    ("query", "error", "sentence"),
    [
        ("lable=kind", TaskError, r"option 'lable' is unknown. Did you mean 'label'\? Allowed: image, label, split. Try: 'csv:.*\?image=COLUMN'"),
        ("label=", TaskError, "option 'label' needs one value. Try: "),
        ("label=a&label=b", TaskError, "option 'label' needs one value"),
        ("label=labl", DataError, r"there is no column 'labl'. Did you mean 'label'\? Columns: path, label, split. Try: "),
    ],
)
def test_wrong_options_are_refused(table, query, error, sentence):
    with pytest.raises(error, match=sentence):
        load_task(f"csv:{table(lines(ROWS))}?{query}")


def test_files_and_folders_that_are_not_there_are_named(table, monkeypatch):
    path = table(lines(ROWS))
    with pytest.raises(DataError, match=r"There is no file '.*gone.csv'. Try: csv:FILE, for example csv:photos.csv, with the columns path and label"):
        load_task(path.with_name("gone.csv"))
    with pytest.raises(DataError, match=r"There is no folder '/no/where'. Try: csv:FILE@ROOT"):
        load_task(f"csv:{path}@/no/where")

    def refuse(name, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ntk_select.data.csv_file.open", refuse, raising=False)
    with pytest.raises(DataError, match=r"a.csv: cannot be opened \(Permission denied\)"):
        load_task(path)


def test_file_names_with_marks_are_paths(table, folder_of):
    path = table(lines(ROWS))
    for name in ("a?label=x.csv", "a@b.csv"):
        path.rename(path.with_name(name))
        path = path.with_name(name)
        assert isinstance(load_task(path), Task)


def test_16_bit_images_get_one_depth_for_both_splits(table, encoded):
    values = {path: np.full((2, 2), 1000 * (place + 1), np.uint16) for place, path in enumerate(FILES)}
    path = table(
        lines([(file, label, "train" if file == FILES[3] else "val") for file, label, _ in ROWS]).replace("img/1.png,cat,val", "img/1.png,cat,train"),
        {name: encoded(image) for name, image in values.items()},
    )
    task = load_task(path)
    assert "read as 12 bits" in task.details["warnings"][-1]
    for images in (task.images, task.test_images):
        for place in range(len(images)):
            name = images.origin(place)[0][0].rsplit("/", 2)
            assert abs(int(images[place][0, 0]) - int(values["/".join(name[1:])][0, 0]) * 255 / 4095) <= 0.5


def test_a_hundred_thousand_rows_need_no_request_per_row(table, monkeypatch):
    import os

    rows = [(f"img/{place}.jpg", f"c{place % 5}") for place in range(100_000)]
    path = table(lines(rows, ("path", "label")), [])
    (path.parent / "img").mkdir()
    entries = [type("Entry", (), {"name": f"{place}.jpg", "is_file": lambda self: True})() for place in range(100_000)]

    class Listing:
        def __enter__(self):
            return iter(entries)

        def __exit__(self, *error):
            pass

    asked, isfile = [], os.path.isfile
    monkeypatch.setattr("ntk_select.data.csv_file.os.scandir", lambda folder: Listing())
    monkeypatch.setattr("ntk_select.data.csv_file.os.path.isfile", lambda path: asked.append(path) or isfile(path))
    task = load_task(path)
    assert (len(task.labels), np.bincount(task.labels).tolist()) == (100_000, [20_000] * 5)
    assert len(asked) < 10


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"path,label\nimg/1.png,{LONG}\n", r"line 2: the value 'x{40}'\.\.\. has 5,000 characters; allowed are 4,096\. Try: close quotes"),
        (f"path,label\n{LONG},cat\n", r"line 2: the value 'x{40}'\.\.\. has 5,000 characters"),
        (f"path,label,split\nimg/1.png,cat,{LONG}\n", r"line 2: the value 'x{40}'\.\.\. has 5,000 characters"),
        (f"path,{LONG}\nimg/1.png,cat\n", r"line 1: the value 'x{40}'\.\.\. has 5,000 characters"),
        ("path,label" + ",a" * 10_000 + "\n", r"has 10,002 columns; allowed are 10,000\. Try: only the columns path, label and split"),
        ("path,label\nimg/1.png/2.png,cat\n", r"1 of 1 images do not exist in .*photos: 'img/1\.png/2\.png' \(line 2\)"),
        (f"path,label\n{'y' * 300}/2.png,cat\n", r"1 of 1 images do not exist in .*photos: 'y{300}/2\.png' \(line 2\)"),
    ],
    ids=["label", "path", "split", "header", "columns", "below a file", "a long name"],
)
def test_values_that_are_too_long_and_paths_that_lead_nowhere_are_named(table, text, sentence):
    with pytest.raises(DataError, match=sentence):
        load_task(table(text))


def test_a_circle_of_links_has_no_images(table):
    path = table("path,label\nround/1.png,cat\n")
    (path.parent / "round").symlink_to("round")
    with pytest.raises(DataError, match=r"1 of 1 images do not exist in .*: 'round/1\.png'"):
        load_task(path)


def test_a_file_of_more_than_a_gigabyte_is_refused_before_it_is_read(table):
    path = table("path,label\n")
    with path.open("r+b") as file:
        file.truncate(2**30 + 1)  # takes no room on the disk
    with pytest.raises(DataError, match=r"a\.csv: has 1,073,741,825 bytes; allowed are 1,073,741,824\. Try: a file with the columns path, label"):
        load_task(path)


def test_labels_are_numbers_if_python_reads_them_as_such_however_long_they_are():
    made = ("".join(each) for size in range(1, 6) for each in itertools.product("1.e-", repeat=size))
    for text in (*made, "7" * 500, "1e5", "+1.5E+3", "-0", ".5", "5."):
        try:
            expected = math.isfinite(float(text)) or text.isdigit()
        except ValueError:
            expected = False
        assert (NUMBER.fullmatch(text) is not None) is expected, text
    assert NUMBER.fullmatch("1" * 2_000_000 + "x") is None  # quadratic time would be an hour
    assert NUMBER.fullmatch("1." + "1" * 2_000_000 + "x") is None
