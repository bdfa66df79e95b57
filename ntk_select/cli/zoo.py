"""`ntk-select zoo`: lists, shows and verifies experts; converts checkpoints; trains experts from a config."""

import json
from dataclasses import asdict
from pathlib import Path

import tyro

from ntk_select.cli.console import percent, print_json, print_line, print_table, print_text, progress_bar, remark
from ntk_select.cli.options import (
    Address,
    Cpus,
    Executor,
    Flag,
    Gpus,
    Json,
    Workers,
    check_writable,
    command_class,
    executor_options,
    group,
    named_expert,
    split,
    typed,
)
from ntk_select.cli.options import Zoo as ZooOption
from ntk_select.cli.weights import Yes, ask_before_download
from ntk_select.errors import ConfigError, ModelError


def _card(load):
    """The card of an expert, without its weights if the zoo stores it separately."""
    card = getattr(load, "card", None)
    return card if card is not None else load().card


@command_class
class ZooList:
    """List the experts of a zoo."""

    zoo: ZooOption = ("builtin",)
    json: Json = False

    def run(self) -> int:
        """Prints one line per expert. Returns 1 if a card cannot be read."""
        from ntk_select.models import open_zoo

        experts, rows, failed = open_zoo(split(self.zoo)), {}, {}
        with progress_bar("cards") as progress:  # of a thousand networks of timm they take minutes
            for done, (name, load) in enumerate(experts.items()):
                progress(done, len(experts), name)
                try:
                    rows[name] = _card(load)
                except Exception as error:  # a zoo may be foreign code
                    failed[name] = str(error)
        if self.json:
            print_json([{"expert": name, **_plain(card)} for name, card in rows.items()])
        else:
            lines = [
                [
                    name,
                    card.source or "?",
                    card.architecture or "?",
                    "?" if card.num_parameters is None else f"{card.num_parameters:,}",
                    str(card.num_classes),
                    percent(card.test_accuracy),
                    card.initialised_from or "-",
                ]
                if card
                else [name, *["?"] * 6]
                for name, card in rows.items()
            ]
            columns = ["expert", "source", "architecture", "parameters", "classes", "test accuracy", "started from"]
            numbers = ("parameters", "classes", "test accuracy")
            print_table(
                f"{len(experts)} expert{'s' if len(experts) != 1 else ''}",
                columns,
                lines,
                right=numbers,
                optional=("started from", "test accuracy", "parameters", "source", "architecture"),
            )
        for name, error in failed.items():
            remark(f"{name}: {error}", "red")
        return 1 if failed else 0


@command_class
class ZooShow:
    """Show the card of one expert."""

    name: tyro.conf.Positional[str]
    """The expert."""
    zoo: ZooOption = ("builtin",)
    json: Json = False

    def run(self) -> int:
        """Prints the card."""
        card = _plain(_card(named_expert(self.zoo, self.name)))
        if self.json:
            print_json(card)
            return 0
        shown = {key: value for key, value in card.items() if key not in ("class_names", "class_counts")}
        print_table(
            self.name,
            ["field", "value"],
            [[key, value if isinstance(value, str) else json.dumps(value)] for key, value in shown.items()],
            sentences=("value",),
        )
        if card.get("class_names"):
            counts = card["class_counts"] or ["?"] * len(card["class_names"])
            print_text("classes (images): " + ", ".join(f"{name} ({count})" for name, count in zip(card["class_names"], counts, strict=False)))
        return 0


@command_class
class ZooVerify:
    """Load every expert and check its weights against its card."""

    zoo: ZooOption = ("builtin",)
    yes: Yes = False
    json: Json = False

    def run(self) -> int:
        """Prints the experts with errors. Returns 1 if there are any."""
        from ntk_select.models import open_zoo

        experts, outcome = open_zoo(split(self.zoo)), {}
        ask_before_download(experts, self.yes)
        with progress_bar("verifying") as progress:
            for done, (name, load) in enumerate(experts.items()):
                progress(done, len(experts), name)
                try:
                    load()
                    outcome[name] = None
                except Exception as error:  # a zoo may be foreign code
                    outcome[name] = str(error)
        wrong = {name: error for name, error in outcome.items() if error}
        if self.json:
            print_json(outcome)
        else:
            for name, error in wrong.items():
                print_text(f"{name}: {error}", style="red")
            print_text(f"{len(outcome) - len(wrong)} of {len(outcome)} experts are intact.")
        return 1 if wrong else 0


@command_class
class ZooConvert:
    """Convert a torchvision or timm checkpoint to an expert.

    A file contains tensors, not the computation: a variant with the same names and shapes (blurred pooling, dilation, the strides of Caffe) is
    converted as well, to a different network. --check-logits detects that.
    """

    checkpoint: tyro.conf.Positional[str]
    """A safetensors file, a file of torch.save (.pth, .pt, .ckpt ...), or hf-hub:ORGANISATION/NAME."""
    arch: str | None = None
    """Architecture, such as resnet50; a checkpoint from the hub names its own."""
    out: Path = Path("zoo")
    """Folder of experts to which the expert is added."""
    name: str | None = None
    """Name of the expert; by default that of the checkpoint."""
    source: str = "unknown"
    """Data set on which it was trained."""
    licence: str | None = None
    """Licence of the weights."""
    size: int | None = None
    """Side of the network's input in pixels (default: 224, or as the hub says)."""
    resize: int | None = None
    """Length to which the shorter side is resized before the crop (default: 8/7 of the size)."""
    mean: tuple[float, float, float] | None = None
    """Mean of the channels, for values in 0..1 (default: ImageNet's)."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of the channels (default: ImageNet's)."""
    interpolation: str | None = None
    """bilinear (default), bicubic, nearest, lanczos or box."""
    weights: str | None = None
    """Key or prefix of the weights to use if the file contains several sets, such as state_dict_ema."""
    drop_head: Flag = False
    """Convert the network without its head, for example if the head is more than one linear layer."""
    check_logits: str | None = None
    """A .npz file with outputs of the original: logits (n, classes), and images (uint8, n x height x width x 3) or inputs (float32, preprocessed).
    Nothing is written unless the expert's logits are equal up to 2 % (images) or 0.1 % (inputs) of the largest logit."""
    replace: Flag = False
    """Overwrite an expert of this name."""
    json: Json = False

    def run(self) -> int:
        """Converts the checkpoint and prints how its input is preprocessed."""
        from ntk_select.models.convert import convert_checkpoint

        name = self.name or _default_name(self.checkpoint)
        if Path(name).name != name or name.startswith("."):
            raise ModelError(f"--name {name!r} must be the name of a folder in --out, without separators and without a leading dot.")
        folder = self.out.expanduser() / name
        card = convert_checkpoint(
            self.checkpoint,
            architecture=self.arch,
            name=name,
            out=folder,
            source=self.source,
            preprocess=self._preprocess(),
            licence=self.licence,
            weights=self.weights,
            drop_head=self.drop_head,
            check_logits=self.check_logits,
            replace_existing=self.replace,
        )
        if self.json:
            print_json(_plain(card))
        else:
            how = card.preprocess
            for note in card.training["converted_from"]["notes"]:
                print_line(note)
            print_line(f"{card.name}: {card.architecture}, {card.num_parameters:,} parameters, {card.num_classes} classes, in {folder}")
            print_line(
                f"Its input is preprocessed by {how.interpolation} resizing to {how.resize} and cropping to {how.size} pixels, mean {how.mean}, std {how.std}. "
                "If it was trained differently: --size --resize --mean --std --interpolation --replace"
            )
            print_line("Next: " + typed("rank", "--task", "folder:my_images", "--zoo", str(self.out.expanduser())))
        return 0

    def _preprocess(self):
        """The given options with ImageNet's usual values for the others; None if none is given."""
        if (self.size, self.resize, self.mean, self.std, self.interpolation) == (None,) * 5:
            return None
        from ntk_select.experts.preprocess import Preprocess

        size = 224 if self.size is None else self.size
        given = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation}
        resize = round(size * 8 / 7) if self.resize is None else self.resize
        return Preprocess(size, resize=resize, **{key: value for key, value in given.items() if value is not None})


@command_class
class ZooTrain:
    """Train the experts of a config file that do not exist yet."""

    config: tyro.conf.Positional[Path]
    """A TOML file, such as scripts/configs/embedded_zoo.toml."""
    data: Path | None = None
    """Folder of the source archives; replaces {data} in the config."""
    out: Path = Path("my_zoo")
    """Folder of experts, one folder per expert."""
    work: Path = Path("runs/zoo")
    """Folder of resized images, and of checkpoints from which interrupted training resumes."""
    only: str = ""
    """Train only experts whose name contains this text."""
    devices: int = 1
    """Number of devices among which each batch is divided."""
    plan: Flag = False
    """Only estimate the work: operations of each architecture at the speed of one convolution on this machine."""
    measure: Flag = False
    """With --plan: time a few training steps of each architecture instead, which takes minutes for large networks."""
    executor: Executor = "local"
    workers: Workers = 0
    address: Address = None
    cpus: Cpus = 1
    gpus: Gpus = 0
    json: Json = False

    def run(self) -> int:
        """Trains, or plans. Returns 1 if some experts were trained and others failed."""
        from ntk_select.training.zoo import plan, read_config, train_zoo
        from ntk_select.training.zoo.members import chosen

        config = read_config(self.config)
        if self.measure and not self.plan:
            raise ConfigError("--measure is for a plan. Try: --plan --measure")
        if self.plan:
            with progress_bar("measuring" if self.measure else "counting") as progress:
                work = plan(config, data=self.data, only=self.only, measure=self.measure, progress=progress)
            if self.json:
                print_json([{**asdict(row), "hours": row.hours} for row in work])
            else:
                _print_plan(work)
            return 0
        where = executor_options(self)
        mesh = _mesh(self.devices, chosen(config, self.only), config)
        for folder, option in ((self.out, "--out"), (self.work, "--work")):
            check_writable(folder, option)
        cards, failure = [], None

        def done(finished) -> None:
            cards.extend(finished)
            for card in finished:
                remark(f"{card.name}: test accuracy {percent(card.test_accuracy, 2)}")

        options = {"data": self.data, "out": self.out, "work": self.work, "only": self.only, "mesh": mesh, "done": done, **where}
        try:
            with progress_bar("training") as progress:
                train_zoo(config, **options, progress=progress)
        except ModelError as error:
            if not cards:
                raise
            failure = error  # of some experts; the others are reported
        if self.json:
            print_json([asdict(card) for card in cards])
        else:
            rows = [[card.name, card.source, card.architecture, percent(card.test_accuracy, 2)] for card in cards]
            columns = ["expert", "source", "architecture", "test accuracy"]
            print_table(f"{len(cards)} experts trained, in {self.out}", columns, rows, right=columns[3:], optional=("source", "architecture"))
            print_line("Next: " + typed("rank", "--task", "folder:my_images", "--zoo", str(self.out)))
        if failure is not None:
            remark(str(failure), "red")
        return 0 if failure is None else 1


def _print_plan(work) -> None:
    rows = [
        [row.name, f"{row.images:,}", str(row.epochs), f"{row.steps:,}", f"{row.flops:.2e}", f"{row.images_per_second:,.1f}", f"{row.hours:,.2f}"]
        for row in work
    ]
    images, steps, flops, hours = (sum(getattr(row, name) for row in work) for name in ("images", "steps", "flops", "hours"))
    rows.append(["all", f"{images:,}", "", f"{steps:,}", f"{flops:.2e}", "", f"{hours:,.2f}"])
    columns = ["expert", "images seen", "epochs", "steps", "FLOPs", "images/s here", "device-hours, roughly"]
    batches = ", ".join(dict.fromkeys(f"{row.architecture} in batches of {row.measured_batch}" for row in work))
    title = f"{len(work)} experts; training on one device of this machine, {'measured' if work[0].measured else 'roughly'}, {batches}"
    print_table(title, columns, rows, right=columns[1:], optional=("epochs", "steps", "FLOPs"))


def _mesh(devices: int, members, config):
    """The mesh over which batches are divided; None for one device. Raises ConfigError if a batch cannot be divided."""
    if devices == 1:
        return None
    import jax
    import numpy as np
    from jax.sharding import Mesh

    from ntk_select._runtime.checks import check_count
    from ntk_select.training.zoo import MultiMember

    check_count("--devices", devices, 1)
    if devices > len(jax.devices()):
        raise ConfigError(f"--devices {devices}: this machine has {len(jax.devices())}. Try: --devices {len(jax.devices())}")
    for member in members:
        size = member.config.batch_size if isinstance(member, MultiMember) else config.batch_size
        if size % devices:
            raise ConfigError(
                f"--devices {devices} cannot share the batches of {size} images of {member.name}. Try: another batch_size in the config"
            )
    return Mesh(np.array(jax.devices()[:devices]), ("images",))


def _default_name(checkpoint: str) -> str:
    """The last part of a hub's name without its revision, or the file's name without its suffix."""
    return checkpoint.rpartition("/")[2].partition("@")[0] if checkpoint.startswith("hf-hub:") else Path(checkpoint).stem


def _plain(card) -> dict:
    return asdict(card) if card is not None else {}


Zoo = group(
    "Zoo",
    "List, show and verify experts; convert checkpoints; train a zoo from a config.",
    list=ZooList,
    show=ZooShow,
    verify=ZooVerify,
    convert=ZooConvert,
    train=ZooTrain,
)
