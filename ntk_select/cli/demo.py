"""`ntk-select demo`: the main job on the embedded experts and data, offline."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from ntk_select.cli.console import Flag, out, remarks
from ntk_select.cli.rank import Rank


@dataclass(frozen=True)
class Demo:
    """Rank the embedded experts for handwritten digits, offline."""

    out: Path = Path("runs/demo")
    """Folder for the ranking and its figure."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Ranks the built-in zoo for the built-in task."""
        remarks().print(Text("Which of the embedded experts would you fine-tune to read handwritten digits? Judged from 25 images of each digit."))
        status = Rank(task="digits", out=self.out, json=self.json).run()
        if not self.json:
            out().print(Text("For your own images, in folders named by class: ntk-select rank --task folder:my_images"))
        return status
