"""`ntk-select zoo train`: experts from a config file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

from ntk_select.cli.console import Flag, check_writable, command, print_json, print_line, print_table, progress_bar, remark
from ntk_select.errors import ConfigError, ModelError


@dataclass(frozen=True)
class ZooTrain:
    """Train the experts of a config file; those that are there already are left as they are."""

    config: tyro.conf.Positional[Path]
    """A TOML file, such as scripts/configs/embedded_zoo.toml."""
    data: Path | None = None
    """Folder of the source archives; stands for {data} in the config."""
    out: Path = Path("my_zoo")
    """Folder of experts, one folder each."""
    work: Path = Path("runs/zoo")
    """Resized images, and checkpoints by which training that was cut goes on."""
    only: str = ""
    """Train only experts whose name contains this text."""
    devices: int = 1
    """Devices that share each batch."""
    plan: Flag = field(default=False)
    """Only say how much work it is, roughly: operations of each architecture at the speed of one convolution on this machine."""
    measure: Flag = field(default=False)
    """With --plan: time a few training steps of each architecture instead, which takes minutes for large networks."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Trains, or plans. Returns 1 if some experts were trained and others were not."""
        from ntk_select.training.zoo import plan, read_config, train_zoo
        from ntk_select.training.zoo.members import chosen

        config = read_config(self.config)
        if self.plan:
            with progress_bar("measuring" if self.measure else "counting") as progress:
                self._print_plan(plan(config, data=self.data, only=self.only, measure=self.measure, progress=progress))
            return 0
        mesh = _mesh(self.devices, chosen(config, self.only), config)
        for folder, option in ((self.out, "--out"), (self.work, "--work")):
            check_writable(folder, option)
        cards, failure = [], None

        def done(finished) -> None:
            cards.extend(finished)
            for card in finished:
                remark(f"{card.name}: test accuracy {100 * card.test_accuracy:.2f} %")

        options = {"data": self.data, "out": self.out, "work": self.work, "only": self.only, "mesh": mesh, "done": done}
        try:
            with progress_bar("training") as progress:
                train_zoo(config, **options, progress=progress)
        except ModelError as error:
            if not cards:
                raise
            failure = error  # of some; the others are there and are told
        if self.json:
            print_json([asdict(card) for card in cards])
        else:
            rows = [[card.name, card.source, card.architecture, f"{100 * card.test_accuracy:.2f} %"] for card in cards]
            print_table(
                f"{len(cards)} experts trained, in {self.out}",
                ["expert", "source", "architecture", "test accuracy"],
                rows,
                right=("test accuracy",),
                optional=("source", "architecture"),
            )
            print_line("Next: " + command("rank", "--task", "folder:my_images", "--zoo", str(self.out)))
        if failure is not None:
            remark(str(failure), "red")
        return 0 if failure is None else 1

    def _print_plan(self, work) -> None:
        if self.json:
            print_json([{**asdict(row), "hours": row.hours} for row in work])
            return
        rows = [
            [row.name, f"{row.images:,}", str(row.epochs), f"{row.steps:,}", f"{row.flops:.2e}", f"{row.images_per_second:,.1f}", f"{row.hours:,.2f}"]
            for row in work
        ]
        total = [f"{sum(row.images for row in work):,}", "", f"{sum(row.steps for row in work):,}", f"{sum(row.flops for row in work):.2e}"]
        rows.append(["all", *total, "", f"{sum(row.hours for row in work):,.2f}"])
        columns = ["expert", "images seen", "epochs", "steps", "FLOPs", "images/s here", "device-hours, roughly"]
        batches = ", ".join(dict.fromkeys(f"{row.architecture} in batches of {row.measured_batch}" for row in work))
        print_table(
            f"{len(work)} experts; training on one device of this machine, {'measured' if work[0].measured else 'roughly'}, {batches}",
            columns,
            rows,
            right=columns[1:],
            optional=("epochs", "steps", "FLOPs"),
        )


def _mesh(devices: int, wanted, config):
    if devices == 1:
        return None
    import jax
    import numpy as np
    from jax.sharding import Mesh

    from ntk_select._runtime.checks import check_count
    from ntk_select.training.zoo import MultiMember

    check_count("--devices", devices, 1)
    if devices > len(jax.devices()):
        raise ConfigError(f"--devices {devices}: this machine has {len(jax.devices())}.")
    for member in wanted:
        size = member.config.batch_size if isinstance(member, MultiMember) else config.batch_size
        if size % devices:
            raise ConfigError(f"--devices {devices} cannot share the batches of {size} images of {member.name}. Change batch_size in the config.")
    return Mesh(np.array(jax.devices()[:devices]), ("images",))
