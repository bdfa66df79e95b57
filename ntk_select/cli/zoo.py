"""`ntk-select zoo`: lists, shows and verifies experts, and makes them from checkpoints and configs."""

import dataclasses
import json as jsonlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.text import Text

from ntk_select.cli.console import Flag, command, out, print_json, print_line, print_table, progress_bar, remark, split
from ntk_select.cli.expert import no_such_expert
from ntk_select.cli.zoo_train import ZooTrain
from ntk_select.errors import ModelError


def _card(load):
    """The card of an expert: read alone where the zoo can, otherwise from the loaded expert."""
    card = getattr(load, "card", None)
    return card if card is not None else load().card


def _share(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.1f} %"


@dataclass(frozen=True)
class ZooList:
    """List the experts of a zoo."""

    zoo: tuple[str, ...] = ("builtin",)
    """builtin, folders of experts, or several of them."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints one line an expert."""
        from ntk_select.models import open_zoo

        experts, rows, failed = open_zoo(split(self.zoo)), {}, {}
        for name, load in experts.items():
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
                    card.source,
                    card.architecture,
                    f"{card.num_parameters or 0:,}",
                    str(card.num_classes),
                    _share(card.test_accuracy),
                    card.initialised_from or "-",
                ]
                if card
                else [name, *["?"] * 6]
                for name, card in rows.items()
            ]
            columns = ["expert", "source", "architecture", "parameters", "classes", "test accuracy", "started from"]
            numbers = ("parameters", "classes", "test accuracy")
            print_table(f"{len(experts)} experts", columns, lines, right=numbers, optional=("started from", "parameters", "source", "architecture"))
        for name, error in failed.items():
            remark(f"{name}: {error}", "red")
        return 1 if failed else 0


@dataclass(frozen=True)
class ZooShow:
    """Show the card of one expert."""

    name: tyro.conf.Positional[str]
    """The expert."""
    zoo: tuple[str, ...] = ("builtin",)
    """builtin, folders of experts, or several of them."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints the card."""
        from ntk_select.models import open_zoo

        experts = open_zoo(split(self.zoo))
        if self.name not in experts:
            raise no_such_expert(self.name, experts, self.zoo)
        card = _plain(_card(experts[self.name]))
        if self.json:
            print_json(card)
            return 0
        shown = {key: value for key, value in card.items() if key not in ("class_names", "class_counts")}
        print_table(
            self.name,
            ["field", "value"],
            [[key, value if isinstance(value, str) else jsonlib.dumps(value)] for key, value in shown.items()],
            sentences=("value",),
        )
        if card.get("class_names"):
            counts = card["class_counts"] or ["?"] * len(card["class_names"])
            out().print(Text("classes (images): " + ", ".join(f"{name} ({count})" for name, count in zip(card["class_names"], counts, strict=False))))
        return 0


@dataclass(frozen=True)
class ZooVerify:
    """Load every expert and check its weights against its card."""

    zoo: tuple[str, ...] = ("builtin",)
    """builtin, folders of experts, or several of them."""
    json: Flag = field(default=False)
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Prints what is wrong. Returns 1 if anything is."""
        from ntk_select.models import open_zoo

        experts, outcome = open_zoo(split(self.zoo)), {}
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
                out().print(Text(f"{name}: {error}", style="red"))
            out().print(f"{len(outcome) - len(wrong)} of {len(outcome)} experts are whole.")
        return 1 if wrong else 0


@dataclass(frozen=True)
class ZooConvert:
    """Turn a torchvision or timm checkpoint into an expert.

    A file holds tensors, not what is computed with them: a variant of the same names and shapes (blurred, dilated, with the strides of Caffe)
    converts as well, to another network. --check-logits finds that out.
    """

    checkpoint: tyro.conf.Positional[str]
    """A safetensors file, a file of torch.save (.pth, .pt, .ckpt ...), or hf-hub:ORGANISATION/NAME."""
    arch: str | None = None
    """Architecture, such as resnet50; a checkpoint from the hub names its own."""
    out: Path = Path("zoo")
    """Folder of experts to put it in."""
    name: str | None = None
    """Name of the expert; the checkpoint's by default."""
    source: str = "unknown"
    """Data set that it was trained on."""
    licence: str | None = None
    """Terms of the weights."""
    size: int | None = None
    """Side of the network's input in pixels (default 224, or as the hub says)."""
    resize: int | None = None
    """Length that the shorter side is resized to before the crop (default: 8/7 of the size)."""
    mean: tuple[float, float, float] | None = None
    """Mean of the channels, for values in 0..1 (default: ImageNet's)."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of the channels (default: ImageNet's)."""
    interpolation: str | None = None
    """bilinear (default), bicubic, nearest, lanczos or box."""
    weights: str | None = None
    """Which weights to take where the file holds several sets, by key or prefix, such as state_dict_ema."""
    drop_head: Flag = field(default=False)
    """Take the network without its head, as where the head is more than one linear layer."""
    check_logits: str | None = None
    """A .npz file with outputs of the original: logits (n, classes), and images (uint8, n x height x width x 3) or inputs (float32, as the network
    takes them). Nothing is written unless the expert gives the same up to 2 % (images) or 0.1 % (inputs) of the largest logit."""
    replace: Flag = field(default=False)
    """Write over an expert of this name."""
    json: Flag = field(default=False)
    """Print the card as JSON."""

    def run(self) -> int:
        """Converts and says what to type next."""
        from ntk_select.models.convert import convert_checkpoint

        name = self.name or _default_name(self.checkpoint)
        if Path(name).name != name or name.startswith("."):
            raise ModelError(f"--name {name!r} must be the name of a folder in --out, without separators and without a dot in front.")
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
                f"Its input is made by {how.interpolation} resizing to {how.resize} and cropping to {how.size} pixels, mean {how.mean}, std {how.std}. "
                "If it was trained otherwise: --size --resize --mean --std --interpolation --replace"
            )
            print_line("Next: " + command("rank", "--task", "folder:my_images", "--zoo", str(self.out.expanduser())))
        return 0

    def _preprocess(self):
        """What was said of the input, ImageNet's usual where nothing was; None when nothing was said at all."""
        if (self.size, self.resize, self.mean, self.std, self.interpolation) == (None,) * 5:
            return None
        from ntk_select.experts.preprocess import Preprocess  # here, for help needs no NumPy

        size = 224 if self.size is None else self.size
        said = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation}
        return Preprocess(
            size,
            resize=round(size * 8 / 7) if self.resize is None else self.resize,
            **{key: value for key, value in said.items() if value is not None},
        )


@dataclass(frozen=True)
class Zoo:
    """List, show and verify experts; convert checkpoints; train a zoo from a config."""

    command: (
        Annotated[ZooList, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[ZooShow, tyro.conf.subcommand("show", prefix_name=False)]
        | Annotated[ZooVerify, tyro.conf.subcommand("verify", prefix_name=False)]
        | Annotated[ZooConvert, tyro.conf.subcommand("convert", prefix_name=False)]
        | Annotated[ZooTrain, tyro.conf.subcommand("train", prefix_name=False)]
    )

    def run(self) -> int:
        """Runs the sub-command."""
        return self.command.run()


def _default_name(checkpoint: str) -> str:
    """The last part of a hub's name without its revision, or the file's name without its suffix."""
    return checkpoint.rpartition("/")[2].partition("@")[0] if checkpoint.startswith("hf-hub:") else Path(checkpoint).stem


def _plain(card) -> dict:
    return dataclasses.asdict(card) if card is not None else {}
