"""A valid config is read as written; every mistake is refused in a sentence that names the field and what is allowed."""

import re
import tomllib
from dataclasses import MISSING, fields
from itertools import combinations
from pathlib import Path

import pytest

from ntk_select.benchmark import read_config
from ntk_select.benchmark.config import BenchConfig, KernelsConfig, TaskConfig
from ntk_select.errors import ConfigError
from ntk_select.training.finetuning import Recipe

CONFIGS = Path(__file__).parents[2] / "scripts" / "configs"

SECTION, FIELD = re.compile(r"#? ?\[([\w.]+)\]"), re.compile(r"(# )?(\w+) = .*")

CONFIG = """
zoo = ["builtin", "my zoo"]
zoo_config = "zoo.toml"
experts = ["a*", "b"]
reference = "b"
scores = ["lfc", "rsa"]
shots = [5, "full"]
per_class = [5, 20, "all"]
probe_seeds = [0, 1]
finetune_seeds = [2]
learning_rates = [0.1, 0.01]
choose = "paper"
source_overlap = "mark"
untrained = ["resnet_small"]
search_rates = [0.3]
checkpoints = true
reference_network = "resnet18"
[recipe]
epochs = 4
milestones = [2]
[kernels]
experts = ["b"]
tasks = ["one"]
epochs = [0, 4]
per_class = 3
shots = "full"
learning_rate = 0.02
[tasks.one]
uri = "npz:{data}/one.npz"
source = ["birds"]
cluster = "wings"
classes = ["red_*"]
[tasks.two]
uri = "digits"
shots = [10]
probe_seeds = [7]
finetune_seeds = [8, 9]
recipe = { epochs = 6, augment = "crop" }
judged_by = "balanced_accuracy"
train = 100
test = 50
num_classes = 10
"""


def test_a_config_is_read_as_it_is_written(write):
    found = read_config(write(CONFIG))
    assert (found.zoo, found.zoo_config, found.experts, found.reference) == (("builtin", "my zoo"), "zoo.toml", ("a*", "b"), "b")
    assert (found.scores, found.shots, found.per_class) == (("lfc", "rsa"), (5, "full"), (5, 20, "all"))
    assert (found.probe_seeds, found.finetune_seeds) == ((0, 1), (2,))
    assert (found.learning_rates, found.choose, found.source_overlap) == ((0.1, 0.01), "paper", "mark")
    assert (found.untrained, found.search_rates, found.checkpoints, found.reference_network) == (("resnet_small",), (0.3,), True, "resnet18")
    kernels = found.kernels
    assert (kernels.experts, kernels.tasks, kernels.epochs, kernels.per_class) == (("b",), ("one",), (0, 4), 3)
    assert (kernels.shots, kernels.learning_rate) == ("full", 0.02)
    one, two = found.tasks["one"], found.tasks["two"]
    assert (one.uri, one.source, one.classes, one.train) == ("npz:{data}/one.npz", ("birds",), ("red_*",), None)
    assert (one.cluster, two.cluster) == ("wings", "")
    assert (one.judged_by, two.judged_by) == ("accuracy", "balanced_accuracy")
    assert (two.train, two.test, two.num_classes) == (100, 50, 10)


def test_a_task_has_its_own_values_in_place_of_those_of_the_config(write):
    found = read_config(write(CONFIG))
    assert found.recipe_of("one") == Recipe(epochs=4, milestones=(2,))
    assert found.recipe_of("two") == Recipe(epochs=6, milestones=(2,), augment="crop")
    assert (found.shots_of("one"), found.shots_of("two")) == ((5, None), (10,))
    assert (found.probe_seeds_of("one"), found.probe_seeds_of("two")) == ((0, 1), (7,))
    assert (found.finetune_seeds_of("one"), found.finetune_seeds_of("two")) == ((2,), (8, 9))
    assert found.probes == (5, 20, None)


def test_defaults_are_those_of_the_paper(write):
    found = read_config(write('[tasks.one]\nuri = "digits"'))
    assert found.recipe_of("one") == Recipe()
    assert (found.learning_rates, found.choose) == ((0.01, 0.005, 0.001), "validation")
    assert (found.experts, found.scores, found.zoo) == (("*",), ("all",), ("builtin",))
    assert (found.kernels, found.synthetic, found.reference, found.untrained) == (None, None, None, ())


def test_synthetic_cells_need_no_task(synthetic):
    made = read_config(synthetic(experts=3, tasks=2, scores=4, signal=0.5, noise=0.1, seconds=0.25)).synthetic
    assert (made.experts, made.tasks, made.scores, made.signal, made.noise, made.seconds) == (3, 2, 4, 0.5, 0.1, 0.25)


@pytest.mark.parametrize("name", ["smoke", "embedded_benchmark", "paper_benchmark"])
def test_configs_of_this_repository_are_valid(name):
    found = read_config(CONFIGS / f"{name}.toml")
    assert len(found.tasks) > 1
    wanted = {"crop" if "digits" in task or "omniglot" in task else "auto" for task in found.tasks}  # mirrored, these are other letters
    assert {found.recipe_of(task).augment for task in found.tasks} == wanted


def test_the_embedded_benchmark_names_the_sources_of_its_tasks():
    found = read_config(CONFIGS / "embedded_benchmark.toml")
    assert [name for name, task in found.tasks.items() if not task.source] == ["digits", "magnetic_tile"]
    assert "cifar10" not in {source for task in found.tasks.values() for source in task.source}


@pytest.mark.parametrize("name", ["embedded_benchmark", "evidence_benchmark"])
def test_targets_from_one_data_set_are_one_cluster(name):
    """The cluster is the same where the images are from the same file or data set, and only there."""
    tasks = read_config(CONFIGS / f"{name}.toml").tasks
    clusters = {task: wanted.cluster or task for task, wanted in tasks.items()}
    for one, other in combinations(tasks, 2):
        assert (clusters[one] == clusters[other]) == (tasks[one].uri == tasks[other].uri), (one, other)


def test_the_config_to_copy_has_every_field_with_its_default():
    kinds = {"": BenchConfig, "recipe": Recipe, "tasks.mine": TaskConfig, "kernels": KernelsConfig}
    named, section = {name: set() for name in kinds} | {"tasks.digits": set()}, ""
    for line in (CONFIGS / "my_benchmark.toml").read_text().splitlines():
        section = found[1] if (found := SECTION.match(line)) else section
        if not (found := FIELD.match(line)):
            continue
        named[section].add(found[2])
        default = {each.name: each for each in fields(kinds[section])}[found[2]] if found[1] else None
        if default and default.default not in (MISSING, None):
            value = tomllib.loads(line.removeprefix("# "))[found[2]]
            assert default.default == (tuple(value) if isinstance(value, list) else value), line
    for section, kind in kinds.items():
        tables = {"tasks", "recipe", "kernels", "synthetic"} if section == "" else {"recipe"}
        assert {each.name for each in fields(kind)} - tables == named[section] - tables, section
    whole = read_config(CONFIGS / "my_benchmark.toml")
    assert (list(whole.tasks), whole.scores) == (["digits", "mine"], ("lfc", "lgc", "leep", "knn"))


def test_all_mistakes_in_fields_are_in_one_message(write):
    with pytest.raises(
        ConfigError, match=r"(?s)'scorse' is unknown.*shots = 5 must be a list.*\[tasks.one\]: the field 'uri' is missing.*\[kernels\]: the fields"
    ):
        read_config(write('scorse = ["lfc"]\nshots = 5\n[tasks.one]\n[kernels]\n'))


WRONG = {
    "no TOML": ('reference = "b"', "reference = ", "bench.toml is not valid TOML: "),
    "unknown field": ("scores =", "scorse =", r"bench.toml: the field 'scorse' is unknown. Did you mean 'scores'"),
    "unknown in a task": ('source = ["birds"]', 'sources = ["birds"]', r"\[tasks.one\]: the field 'sources' is unknown. Did you mean 'source'"),
    "missing in a task": ('uri = "digits"', "", r"\[tasks.two\]: the field 'uri' is missing"),
    "missing in kernels": ('tasks = ["one"]', "", r"\[kernels\]: the field 'tasks' is missing"),
    "unknown in kernels": ("learning_rate = 0.02", "rate = 0.02", r"\[kernels\]: the field 'rate' is unknown"),
    "a name of a task": ("[tasks.two]", '[tasks."a/b"]', r"\[tasks.a/b\]: a name consists of letters"),
    "a list as text": ('scores = ["lfc", "rsa"]', 'scores = "lfc"', "scores = 'lfc' must be a list"),
    "a number as name": ('scores = ["lfc", "rsa"]', "scores = [1]", "scores contains 1, which must be text"),
    "a text for true or false": ("checkpoints = true", 'checkpoints = "yes"', "checkpoints = 'yes' must be true or false"),
    "a number for a text": ('reference = "b"', "reference = 1", "reference = 1 must be text"),
    "a negative seed": ("finetune_seeds = [2]", "finetune_seeds = [-2]", "finetune_seeds contains -2, which must be a whole number from 0"),
    "no seed": ("finetune_seeds = [2]", "finetune_seeds = []", "finetune_seeds is empty. Try: at least one value"),
    "no zoo": ('zoo = ["builtin", "my zoo"]', "zoo = []", "zoo is empty"),
    "no shots": ('shots = [5, "full"]', "shots = []", "shots is empty"),
    "choose": ('choose = "paper"', 'choose = "papers"', "choose = 'papers' is unknown. Did you mean 'paper'"),
    "source overlap": (
        'source_overlap = "mark"',
        'source_overlap = "marks"',
        "bench.toml: source_overlap = 'marks' is unknown. Did you mean 'mark'.*Allowed: mark, skip",
    ),
    "judge": (
        'judged_by = "balanced_accuracy"',
        'judged_by = "balanced"',
        "judged_by of 'two' = 'balanced' is unknown. Did you mean 'balanced_accuracy'",
    ),
    "no images": ('per_class = [5, 20, "all"]', "per_class = [0]", "per_class contains 0, which must be a whole number from 1, or .full."),
    "half a shot": ('shots = [5, "full"]', "shots = [5.5]", "shots contains 5.5, which must be a whole number from 1"),
    "shots of another word": ('shots = [5, "full"]', 'shots = ["most"]', "shots contains 'most', which must be .*\"full\""),
    "true as shots": ("shots = [10]", "shots = [true]", "shots contains True"),
    "a rate of zero": (
        "learning_rates = [0.1, 0.01]",
        "learning_rates = [0.0]",
        "bench.toml: learning_rates contains 0.0, which must be a number above 0",
    ),
    "no rates": ("learning_rates = [0.1, 0.01]", "learning_rates = []", "learning_rates is empty. Try: at least one value"),
    "a search rate as text": ("search_rates = [0.3]", 'search_rates = ["a"]', "bench.toml: search_rates contains 'a', which must be a number"),
    "scores that see more than fine-tuning": (
        "shots = [10]",
        "shots = [4]",
        r"scores would see 5 images per class and fine-tuning only 4 of 'two'. Try: another number up to 4 in per_class",
    ),
    "scores that see more than the paper's": (
        'per_class = [5, 20, "all"]',
        "per_class = [30]",
        "would see 30 images per class and fine-tuning only 5 of 'one'. Try: another number up to 5",
    ),
    "scores that see everything": ('per_class = [5, 20, "all"]', 'per_class = ["all"]', "Try: another number up to 5 in per_class"),
    "unknown in the recipe": ("milestones = [2]", "mile = [2]", "the recipe of 'one': the field 'mile' is unknown. Allowed: augment, batch_norm"),
    "no epochs": ("recipe = { epochs = 6", "recipe = { epochs = 0", "the recipe of 'two': epochs=0 must be a whole number from 1"),
    "kernels of no task": ('tasks = ["one"]', 'tasks = ["on"]', "a task of kernels = 'on' is unknown. Did you mean 'one'"),
    "kernels after the end": ("epochs = [0, 4]", "epochs = [0, 5]", "kernels.epochs contains 5, and the recipe of 'one' has only 4"),
    "kernels of no shots": ('shots = "full"', "shots = 0", "kernels.shots contains 0"),
    "kernels of no images": ("per_class = 3", "per_class = 0", r"\[kernels\]: per_class = 0 must be a whole number from 1"),
    "kernels at no rate": ("learning_rate = 0.02", "learning_rate = 0", r"\[kernels\]: learning_rate = 0 must be a number above 0"),
}


def test_everything_else_is_refused_in_a_sentence(write, check_refusals):
    assert {name for name, (old, _, _) in WRONG.items() if CONFIG.count(old) != 1} == set()
    check_refusals(read_config, write(CONFIG), {name: (CONFIG.replace(old, new), words) for name, (old, new, words) in WRONG.items()})


ALONE = {
    "nothing": ("", "tasks is empty. Try: at least one value"),
    "a number for tasks": ("tasks = 1", r"bench.toml: tasks = 1 must be a table, as in \[tasks.NAME\]"),
    "a number for a task": ("tasks = { a = 1 }", r"tasks.a = 1 must be a table, as in \[tasks.a\]"),
    "a number for kernels": ("kernels = 1", r"kernels = 1 must be a table, as in \[kernels\]"),
    "a number for synthetic": ("synthetic = 1", r"synthetic = 1 must be a table, as in \[synthetic\]"),
    "no synthetic expert": ("[synthetic]\nexperts = 0", r"\[synthetic\]: experts = 0 must be a whole number from 1"),
    "no synthetic task": ("[synthetic]\ntasks = 0", r"\[synthetic\]: tasks = 0 must be a whole number from 1"),
    "no synthetic score": ("[synthetic]\nscores = 0", r"\[synthetic\]: scores = 0 must be a whole number from 1"),
    "too much signal": ("[synthetic]\nsignal = 1.5", r"\[synthetic\]: signal = 1.5 must be a number up to 1"),
    "negative noise": ("[synthetic]\nnoise = -1.0", r"\[synthetic\]: noise = -1.0 must be a number from 0"),
    "no seed of synthetic cells": ("finetune_seeds = []\n[synthetic]", "finetune_seeds is empty"),
}


def test_a_config_that_makes_no_benchmark_is_refused(write, check_refusals):
    check_refusals(read_config, write(""), ALONE)


def test_the_old_name_of_a_field_is_still_read_but_not_next_to_the_new_one(write):
    old = CONFIG.replace("source_overlap", "own_source")
    assert read_config(write(old)) == read_config(write(CONFIG))
    with pytest.raises(ConfigError, match="the field 'own_source' is unknown"):
        read_config(write('own_source = "skip"\n' + CONFIG))


def test_a_config_that_is_missing_or_not_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory. Try: the path of a TOML file"):
        read_config(tmp_path / "no.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="binary.toml cannot be read"):
        read_config(tmp_path / "binary.toml")


def test_the_former_name_of_source_overlap_is_deprecated():
    config = BenchConfig(tasks={})
    with pytest.warns(DeprecationWarning, match="Try: source_overlap"):
        assert config.own_source == config.source_overlap == "skip"
