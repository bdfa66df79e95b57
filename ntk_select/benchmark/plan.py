"""The work of a benchmark, before any of it is begun."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ntk_select.errors import ConfigError
from ntk_select.experts.expert import Expert
from ntk_select.experts.preprocess import Preprocess
from ntk_select.forecasting.kernel import directions_for
from ntk_select.kernels.flops import TRAINING
from ntk_select.models import fresh_expert
from ntk_select.training.finetuning.shots import SHARE
from ntk_select.training.zoo import read_config as read_zoo_config
from ntk_select.training.zoo.members import SingleMember, chosen
from ntk_select.training.zoo.speed import (
    Network,
    Speed,
    abstract_network,
    busy,
    estimated_speed,
    measured_speed,
    network_of,
    training_rate,
)

from .cells import FORECAST, UNTRAINED, Cell, ExpertFacts, TaskFacts, grid, scores_of
from .config import BenchConfig, Images, read_config
from .facts import check_names, load, seen_by_line, task_facts
from .measure import Bench


@dataclass(frozen=True)
class Part:
    """Cells of one kind and number of images.

    Args:
      kind, role, images: as of `Cell`.
      cells: how many.
      trained, passed: images that go forward and backward; forward alone.
      flops: of convolutions and matrix products.
      hours: of one device such as this machine's, see `Plan.rough`.
    """

    kind: str
    role: str
    images: Images
    cells: int
    trained: float
    passed: float
    flops: float
    hours: float


@dataclass(frozen=True)
class Plan:
    """The work of a benchmark.

    Attributes:
      parts: of its cells.
      skipped: pairs of expert and task that are left out: own source.
      experts, tasks: how many.
      speeds: by architecture, on one device of this machine.
      rough: sentences on what the hours leave out and how far off they can be.
    """

    parts: tuple[Part, ...]
    skipped: int
    experts: int
    tasks: int
    speeds: dict[str, Speed]
    rough: tuple[str, ...] = ()


NOT_COUNTED = "Reading images, compilation, and the small networks that RSA and DDS train are not in it."
ESTIMATED = "Hours are rough, within about a factor of two: operations of each architecture at the speed of one convolution here. With --measure: by its own steps."
MEASURED = "Hours are rough: by a few training steps of each architecture on noise here."


def plan(
    config_path: str | Path, *, data: str | Path | None = None, measure: bool = False, progress: Callable[[int, int, str], None] | None = None
) -> Plan:
    """The work of every cell of the config. Nothing is written.

    Operations are counted from the shapes of each architecture, without initialising or compiling it; one second of convolutions on noise says
    how fast this device is. Reading images, compilation, the scores themselves once the passes are made, and the small networks that RSA and DDS
    train are not in it: for photographs the first, for small images the second can be the larger part. A forward pass counts a third of a training
    step.

    Args:
      config_path, data: as for `run`. Images are only looked at where the config does not say how many there are; with `zoo_config` the zoo need not
        have been trained.
      measure: whether to time a few training steps of each architecture instead. They are compiled first: minutes for a deep network on a CPU.
      progress: called with (architectures done, architectures, name).

    Raises:
      ConfigError: as `run`.
      TaskError, DataError, ModelError: a task or the zoo cannot be loaded, and the config does not say what it is.
    """
    load = busy()
    path = Path(config_path).expanduser()
    config = read_config(path)
    if config.synthetic is not None:
        cells = grid(config, {}, {}).cells
        return Plan(
            (Part("synthetic", "", 20, len(cells), 0, 0, 0.0, len(cells) * config.synthetic.seconds / 3600),),
            0,
            config.synthetic.experts,
            config.synthetic.tasks,
            {},
            (NOT_COUNTED,),
        )
    check_names(config)
    bench = Bench(config, data)
    experts, make, absent = _experts(bench, path)
    tasks = {name: _task(config, name, data) for name in config.tasks}
    cells = grid(config, experts, tasks)
    kinds = {name: facts.architecture or name for name, facts in experts.items()} | {UNTRAINED + name: name for name in config.untrained}
    examples = {kinds[cell.expert]: cell.expert for cell in cells.cells}
    recipe = config.recipe_of(next(iter(config.tasks)))
    speeds, rates = {}, {}
    for done, (architecture, name) in enumerate(examples.items()):
        if progress is not None:
            progress(done, len(examples), architecture)
        if measure:
            expert = make(name)
            speeds[architecture] = measured_speed(expert, recipe.batch_size, network_of(expert).head[1] or 2, precision=recipe.precision)
            continue
        network, size = _network(make, name, absent(name))
        if size not in rates:
            rates[size] = training_rate(size, recipe.batch_size, precision=recipe.precision)
        speeds[architecture] = estimated_speed(network, size, recipe.batch_size, rates[size])
    parts = _parts(config, cells.cells, tasks, lambda cell: speeds[kinds[cell.expert]])
    sentences = (NOT_COUNTED, MEASURED if measure else ESTIMATED, *([load] if load else []))
    return Plan(tuple(parts), len(cells.skipped), len({cell.expert for cell in cells.cells}), len(tasks), speeds, sentences)


def _experts(bench: Bench, path: Path) -> tuple[dict[str, ExpertFacts], Callable[[str], Expert], Callable[[str], Preprocess | None]]:
    """Facts of the experts; a function that loads or initialises one, or its like; and one that gives the preprocessing of an expert that is not there."""
    config = bench.config
    if config.zoo_config is None or all(Path(uri).expanduser().is_dir() or uri == "builtin" for uri in config.zoo):
        return bench.facts, bench.expert, lambda name: bench.expert(config.reference).preprocess if name.startswith(UNTRAINED) else None
    zoo = read_zoo_config(path.parent / config.zoo_config)
    facts = {}
    for member in chosen(zoo, ""):
        names = [member.name] if isinstance(member, SingleMember) else [f"{member.name}@{source}" for source in member.sources]
        for name in names:
            source = member.source if isinstance(member, SingleMember) else name.partition("@")[2]
            seen = (source,) if isinstance(member, SingleMember) else tuple(member.sources)
            facts[name] = ExpertFacts(name, f"planned: {name}", member.architecture, source, seen, member.initialised_from)
    seen, parents = {name: known.seen for name, known in facts.items()}, {name: known.initialised_from for name, known in facts.items()}
    facts = {name: replace(known, seen=seen_by_line(name, seen, parents)) for name, known in facts.items()}

    def fresh(name: str) -> Expert:
        architecture = facts[name].architecture if name in facts else name.removeprefix(UNTRAINED)
        return fresh_expert(name, architecture, num_classes=100, preprocess=zoo.preprocess)

    return facts, fresh, lambda _: zoo.preprocess


def _network(make: Callable[[str], Expert], name: str, absent: Preprocess | None) -> tuple[Network, int]:
    """The network of an expert and the pixels of its images; of one that is not there, with the preprocessing `absent`, by shapes alone."""
    if absent is not None:
        return abstract_network(lambda: make(name)), absent.size
    expert = make(name)
    return network_of(expert), expert.preprocess.size


def _task(config: BenchConfig, name: str, data) -> TaskFacts:
    wanted = config.tasks[name]
    if wanted.train and wanted.test and wanted.num_classes:
        return TaskFacts(name, f"planned: {name}", f"planned: {name}", wanted.train, wanted.test, wanted.num_classes)
    return task_facts(load(name, wanted, data))


def _parts(config: BenchConfig, cells: Iterable[Cell], tasks: dict[str, TaskFacts], speed_for: Callable[[Cell], Speed]) -> list[Part]:
    sums = defaultdict(lambda: [0, 0.0, 0.0, 0.0, 0.0])
    gradients = any("gradient_kernel" in score.takes for score in scores_of(config).values())
    for cell in cells:
        speed = speed_for(cell)
        trained, passed = _images(config, cell, tasks[cell.task], gradients, speed.width)
        equivalent = trained + passed / TRAINING
        entry = sums[cell.kind, cell.role, cell.images]
        for place, value in enumerate((1, trained, passed, TRAINING * speed.flops * equivalent, equivalent / speed.images_per_second / 3600)):
            entry[place] += value
    return [Part(*key, *entry) for key, entry in sums.items()]


def _images(config: BenchConfig, cell: Cell, task: TaskFacts, gradients: bool, width: int) -> tuple[float, float]:
    """Images that a cell trains on, and passes forward alone.

    Args:
      gradients: whether a score goes one step back.
      width: pre-logits of the network. A derivative along a direction, of which a forecast takes fewer the wider the network is, costs two passes.
    """
    count = task.train if cell.images is None else min(cell.images * task.num_classes, task.train)
    if cell.role == FORECAST:
        return 0, count * (1 + 2 * directions_for(width))
    if cell.kind == "score":
        return (count if gradients else 0), count
    epochs = cell.settings["epochs"] if cell.kind == "kernel" else config.recipe_of(cell.task).epochs
    rates, choose = len(cell.settings["rates"]), cell.settings["choose"]
    if rates == 1 or choose == "paper":
        return epochs * count * rates, task.test * rates
    return epochs * count * (rates * (1 - SHARE) + 1), task.test + SHARE * count * rates


def total(found: Plan) -> Part:
    """All parts in one.

    Raises:
      ConfigError: there is none.
    """
    if not found.parts:
        raise ConfigError("The config asks for no cell: every expert is on its own source.")
    return Part("all", "", None, *(sum(getattr(part, name) for part in found.parts) for name in ("cells", "trained", "passed", "flops", "hours")))
