"""The work of a benchmark, before it is run: cells, images, operations, hours."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ntk_select.benchmark.cells import FORECAST, UNTRAINED, Cell, ExpertFacts, TaskFacts, grid, scores_of
from ntk_select.benchmark.config import BenchConfig, Images, read_config
from ntk_select.benchmark.facts import check_names, load, task_facts
from ntk_select.benchmark.measure import Bench
from ntk_select.benchmark.overlap import seen_by_line
from ntk_select.errors import ConfigError
from ntk_select.experts.expert import Expert
from ntk_select.experts.preprocess import Preprocess
from ntk_select.kernels.directions import directions_for
from ntk_select.kernels.flops import TRAINING
from ntk_select.models import fresh_expert
from ntk_select.training.finetuning.recipe import VALIDATION_SHARE
from ntk_select.training.zoo import read_config as read_zoo_config
from ntk_select.training.zoo.members import SingleMember, chosen
from ntk_select.training.zoo.plan import Speed, busy, speeds
from ntk_select.training.zoo.single import fresh_member

NOT_COUNTED = "Hours do not include reading images, compilation, and the small networks that RSA and DDS train."
ESTIMATED = (
    "Hours are estimates, within about a factor of two: operations of each architecture at the speed of one convolution here. "
    "More exact: measure=True (--measure)"
)
MEASURED = "Hours are estimates, from a few training steps of each architecture on noise here."


@dataclass(frozen=True)
class Part:
    """Cells of one kind and number of images.

    Args:
      kind, role, images: Fields of `Cell`.
      cells: Number of cells.
      trained: images in forward and backward passes.
      passed: images in forward passes alone.
      flops: Operations of convolutions and matrix products.
      hours: Hours on one device such as this machine's; see `Plan.rough` for what they leave out.
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
      parts: The work by kind of cell.
      skipped: number of pairs of expert and task that are left out because of source overlap.
      experts, tasks: Numbers of experts and tasks.
      speeds: Training speed by architecture, on one device of this machine.
      rough: sentences about what the hours leave out, and how accurate they are.
    """

    parts: tuple[Part, ...]
    skipped: int
    experts: int
    tasks: int
    speeds: dict[str, Speed]
    rough: tuple[str, ...] = ()


def plan(
    config_path: str | Path, *, data: str | Path | None = None, measure: bool = False, progress: Callable[[int, int, str], None] | None = None
) -> Plan:
    """The work of every cell of the config. Nothing is written.

    Operations are counted from the shapes of one expert of each architecture, whatever input sizes the others have, without initialising or compiling
    it, and the speed of this device is measured by one second of convolutions on noise. A forward pass counts a third of a training step. Not
    included: reading images (the larger part for photographs), compilation (possibly the larger part for small images), the scores once the passes
    are done, and the networks that RSA and DDS train.

    Args:
      config_path, data: Arguments of `run`. Images are only read if the config does not give their number; with `zoo_config` the zoo need not be
        trained yet.
      measure: whether to time a few training steps of each architecture instead. They are compiled first: minutes for a deep network on a CPU.
      progress: called with (architectures done, architectures, name).

    Raises:
      ConfigError: as `run`.
      TaskError, DataError, ModelError: a task or the zoo cannot be loaded, and the config does not describe it.
    """
    warning = busy()
    path = Path(config_path).expanduser()
    config = read_config(path)
    if (made := config.synthetic) is not None:
        count = len(grid(config, {}, {}).cells)
        part = Part("synthetic", "", 20, count, 0, 0, 0.0, count * made.seconds / 3600)
        return Plan((part,), 0, made.experts, made.tasks, {}, (NOT_COUNTED,))
    check_names(config)
    experts, make, untrained = _experts(Bench(config, data), path)
    tasks = {name: _task(config, name, data) for name in config.tasks}
    whole = grid(config, experts, tasks)
    architectures = {name: facts.architecture or name for name, facts in experts.items()} | {UNTRAINED + name: name for name in config.untrained}
    examples = {architectures[cell.expert]: cell.expert for cell in whole.cells}
    recipe = config.recipe_of(next(iter(config.tasks)))
    networks = {architecture: (partial(make, name), untrained(name)) for architecture, name in examples.items()}
    found = speeds(networks, recipe.batch_size, precision=recipe.precision, measure=measure, progress=progress)
    parts = _parts(config, whole.cells, tasks, lambda cell: found[architectures[cell.expert]])
    sentences = (NOT_COUNTED, MEASURED if measure else ESTIMATED, *filter(None, [warning]))
    return Plan(tuple(parts), len(whole.skipped), len({cell.expert for cell in whole.cells}), len(tasks), found, sentences)


def _experts(bench: Bench, path: Path) -> tuple[dict[str, ExpertFacts], Callable[[str], Expert], Callable[[str], Preprocess | None]]:
    """Facts of the experts; a function that loads an expert, or initialises an untrained one; and a function that gives the preprocessing of an
    untrained expert, None for a trained one."""
    config = bench.config
    if config.zoo_config is None or all(Path(uri).expanduser().is_dir() or uri == "builtin" for uri in config.zoo):
        return bench.facts, bench.expert, lambda name: bench.expert(config.reference).preprocess if name.startswith(UNTRAINED) else None
    zoo = read_zoo_config(path.parent / config.zoo_config)
    facts, wanted = {}, {}
    for member in chosen(zoo):
        for source in member.sources:
            name = member.name if isinstance(member, SingleMember) else f"{member.name}@{source}"
            wanted[name] = member
            facts[name] = ExpertFacts(name, f"planned: {name}", member.architecture, source, member.sources, member.initialised_from)
    seen, parents = {name: known.seen for name, known in facts.items()}, {name: known.initialised_from for name, known in facts.items()}
    facts = {name: replace(known, seen=seen_by_line(name, seen, parents)) for name, known in facts.items()}

    def fresh(name: str) -> Expert:
        if name in wanted:
            return fresh_member(zoo, wanted[name], 100, seed="")
        return fresh_expert(name, name.removeprefix(UNTRAINED), num_classes=100, preprocess=zoo.preprocess)

    return facts, fresh, lambda _: zoo.preprocess


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
    """(images that a cell trains on, images in forward passes alone).

    Args:
      gradients: whether a score needs a backward pass.
      width: pre-logits of the network. A forecast takes derivatives along directions, two passes each, and fewer directions for wider networks.
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
    return epochs * count * (rates * (1 - VALIDATION_SHARE) + 1), task.test + VALIDATION_SHARE * count * rates


def total(found: Plan) -> Part:
    """The sum of all parts. Raises ConfigError if there is none."""
    if not found.parts:
        raise ConfigError('The config requests no cell: every expert overlaps with the source of every task. Try: source_overlap = "mark"')
    return Part("all", "", None, *(sum(getattr(part, name) for part in found.parts) for name in ("cells", "trained", "passed", "flops", "hours")))
