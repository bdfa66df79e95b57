"""Figure 2: gain of each single-domain expert over the reference."""

from ntk_select.benchmark.report.results import Results
from ntk_select.benchmark.report.words import single_domain

from .gains import BAR, draw_gains, gains, nothing
from .look import caption

__all__ = ["TITLE", "data", "draw", "nothing", "text"]

TITLE = "Fine-tuning every single-domain expert"
ROLES = ("truth",)


def data(results: Results) -> list[dict]:
    """One row a target, number of shots and single-domain expert; gains in percentage points."""
    rows = (row for shots in results.shots for task in results.task_names for row in gains(results, task, shots))
    return [row for row in rows if single_domain(row["expert"]) and row["expert"] != results.config.reference]


def text(results: Results) -> tuple[str, ...]:
    """The caption, in parts."""
    return caption(
        results,
        f"Test accuracy after fine-tuning minus that of the reference {results.config.reference}, mean over seeds. Experts that have seen the data of a "
        "target are left out there. The paper's figure 2 draws the test error of every expert. Its experts are better than those of ImageNet on all "
        "images only on Magnetic Tile, UC Merced and iCassava, and with 20 or 5 images per class also on Flowers, EU Flood, Belga Logos and CUB.",
        ROLES,
        [BAR],
    )


def draw(results: Results):
    """A column a target, a mark an expert."""
    return draw_gains(results, data(results), TITLE)
