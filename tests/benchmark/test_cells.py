"""The key of a cell changes with everything that determines its numbers, and with nothing else."""

import json
from dataclasses import asdict, replace

import pytest

from ntk_select.benchmark.cells import Cell, ExpertFacts, TaskFacts, grid
from ntk_select.benchmark.config import parsed
from ntk_select.errors import ConfigError
from ntk_select.scores.table import REVISIONS

CONFIG = {
    "reference": "ash",
    "scores": ["lfc", "rsa"],
    "shots": [5, 20],
    "per_class": [5, 20],
    "probe_seeds": [0, 1],
    "finetune_seeds": [0, 1],
    "learning_rates": [0.1, 0.01],
    "untrained": ["resnet18"],
    "search_rates": [0.3, 0.1],
    "kernels": {"experts": ["ash"], "tasks": ["birds"], "epochs": [0, 2]},
    "recipe": {"epochs": 4},
    "tasks": {"birds": {"uri": "npz:{data}/birds.npz", "source": ["nests"]}, "fish": {"uri": "digits"}},
}
EXPERTS = {
    "ash": ExpertFacts("ash", "digest of ash", "resnet18", "trees", ("trees",)),
    "elm": ExpertFacts("elm", "digest of elm", "densenet121", "shapes", ("shapes",)),
    "oak": ExpertFacts("oak", "digest of oak", "resnet18", "lakes", ("lakes", "nests"), "elm"),
}
TASKS = {name: TaskFacts(name, f"digest of {name}", f"training images of {name}", 400, 100, 10) for name in ("birds", "fish")}


def cells(config=CONFIG, experts=EXPERTS, tasks=TASKS) -> tuple[Cell, ...]:
    return grid(parsed(config, "bench.toml"), experts, tasks).cells


def keys(*arguments) -> dict[str, set[str]]:
    """Keys of all cells, by kind and role."""
    found: dict[str, set[str]] = {}
    for cell in cells(*arguments):
        found.setdefault(cell.role or cell.kind, set()).add(cell.key)
    return found


def with_tasks(**birds) -> dict:
    return {**CONFIG, "tasks": {**CONFIG["tasks"], "birds": {**CONFIG["tasks"]["birds"], **birds}}}


def test_a_cluster_of_targets_changes_no_key():
    assert keys(with_tasks(cluster="animals")) == keys()


def test_every_expert_is_measured_on_every_task_with_every_number_of_images_and_seed():
    count = {kind: len(found) for kind, found in keys().items()}
    pairs = 5  # of three experts and two tasks; one pair overlaps
    assert count == {"score": pairs * 2 * 2, "truth": pairs * 2 * 2, "untrained": 2 * 2 * 2, "search": 2 * 2 * 2, "kernel": 2}


CHANGES = {
    "scores": ({"scores": ["lfc"]}, {"score"}),
    "the network of RSA": ({"reference_network": "resnet18"}, {"score"}),
    "learning rates": ({"learning_rates": [0.1, 0.02]}, {"truth", "untrained"}),
    "rates of the search": ({"search_rates": [0.3]}, {"search"}),
    "choice": ({"choose": "paper"}, {"truth", "untrained", "search"}),
    "recipe": ({"recipe": {"epochs": 5}}, {"truth", "untrained", "search", "kernel"}),
    "rate of kernels": ({"kernels": {**CONFIG["kernels"], "learning_rate": 0.5}}, {"kernel"}),
    "images of kernels": ({"kernels": {**CONFIG["kernels"], "per_class": 3}}, {"kernel"}),
    "shots of kernels": ({"kernels": {**CONFIG["kernels"], "shots": 3}}, {"kernel"}),
    "epochs of kernels": ({"kernels": {**CONFIG["kernels"], "epochs": [1, 3]}}, {"kernel"}),
    "shots": ({"shots": [6, 21]}, {"score", "truth", "untrained", "search"}),
    "images that scores see": ({"per_class": [4, 19]}, {"score"}),
    "seeds of scores": ({"probe_seeds": [2, 3]}, {"score"}),
    "seeds of fine-tuning": ({"finetune_seeds": [2, 3]}, {"truth", "untrained", "search"}),
}


@pytest.mark.parametrize(("change", "kinds"), CHANGES.values(), ids=CHANGES.keys())
def test_a_key_changes_with_what_determines_the_numbers_of_its_kind(change, kinds):
    before, after = keys(), keys({**CONFIG, **change})
    assert {kind for kind in before if not before[kind] & after[kind]} == kinds
    assert {kind for kind in before if before[kind] == after[kind]} == set(before) - kinds


def test_a_key_changes_with_the_revision_of_a_score(monkeypatch):
    config = {**CONFIG, "scores": ["forecast", "lfc"]}
    before = keys(config)
    monkeypatch.setitem(REVISIONS, "forecast", 1000)
    after = keys(config)
    assert {kind for kind in before if not before[kind] & after[kind]} == {"forecast"}
    assert {kind for kind in before if before[kind] == after[kind]} == set(before) - {"forecast"}


def test_a_key_changes_with_the_weights_of_the_expert():
    other = {**EXPERTS, "elm": replace(EXPERTS["elm"], digest="of other weights")}
    changed = {cell.key for cell in cells()} ^ {cell.key for cell in cells(CONFIG, other)}
    assert changed == {cell.key for some in (EXPERTS, other) for cell in cells(CONFIG, some) if cell.expert == "elm"}


def test_the_key_of_an_untrained_network_depends_on_the_reference_whose_preprocessing_it_has():
    other = {**EXPERTS, "ash": replace(EXPERTS["ash"], digest="of other weights")}
    assert not keys()["untrained"] & keys(CONFIG, other)["untrained"]


def test_scores_do_not_depend_on_test_images_and_fine_tuning_does():
    tested = {**TASKS, "birds": replace(TASKS["birds"], digest="other test images")}
    of_birds = {kind: {cell.key for cell in cells() if cell.task == "birds" and kind in (cell.kind, cell.role)} for kind in keys()}
    after = keys(CONFIG, EXPERTS, tested)
    assert of_birds["score"] <= after["score"]
    assert not any(of_birds[kind] & after[kind] for kind in ("truth", "untrained", "search", "kernel"))
    trained = {**TASKS, "birds": replace(TASKS["birds"], train_digest="other training images", digest="so the whole is another")}
    assert not any(of_birds[kind] & found for kind, found in keys(CONFIG, EXPERTS, trained).items())


SAME = {
    "the place of the images": with_tasks(uri="zip:/elsewhere/birds.zip"),
    "the order of the tasks": {**CONFIG, "tasks": dict(reversed(CONFIG["tasks"].items()))},
    "the order of rates, shots and seeds": {
        **CONFIG,
        **{name: CONFIG[name][::-1] for name in ("learning_rates", "search_rates", "shots", "per_class", "probe_seeds", "finetune_seeds")},
    },
    "numbers that occur twice": {**CONFIG, "shots": [5, 20, 5], "per_class": [20, 5, 20], "probe_seeds": [0, 1, 1], "finetune_seeds": [0, 0, 1]},
    "what is the default": {**CONFIG, "recipe": {"epochs": 4, "batch_size": 32, "momentum": 0.9}, "choose": "validation"},
    "whole numbers as fractions": {**CONFIG, "recipe": {"epochs": 4, "weight_decay": 1e-4}, "source_overlap": "skip"},
    "whether interrupted trainings resume": {**CONFIG, "checkpoints": True},
    "sizes for a plan": with_tasks(train=5, test=5, num_classes=2),
    "how it is judged": with_tasks(judged_by="balanced_accuracy"),
    "where the zoo is": {**CONFIG, "zoo": ["elsewhere"], "zoo_config": "zoo.toml"},
}


@pytest.mark.parametrize("config", SAME.values(), ids=SAME.keys())
def test_a_key_does_not_change_with_anything_else(config):
    assert keys(config) == keys()
    assert len(cells(config)) == len(cells())


def test_a_key_does_not_change_with_other_tasks_or_experts():
    fewer = {**CONFIG, "tasks": {"birds": CONFIG["tasks"]["birds"]}, "experts": ["ash"]}
    assert {cell.key for cell in cells(fewer)} < {cell.key for cell in cells()}
    facts = {name: replace(each, source_accuracy=0.5, parameters=7) for name, each in EXPERTS.items()}
    assert keys(CONFIG, facts) == keys()


def test_no_two_cells_have_one_key():
    found = cells()
    assert len({cell.key for cell in found}) == len(found)


def test_a_key_survives_json():
    for cell in cells():
        again = Cell(**json.loads(json.dumps(asdict(cell))))
        assert (again.key, again.group) == (cell.key, cell.group)


def test_fine_tuning_of_the_reference_is_separate_from_its_search_even_at_the_same_rates():
    found = cells({**CONFIG, "search_rates": CONFIG["learning_rates"]})
    mine = {cell.role: cell for cell in found if cell.expert == "ash" and cell.kind == "truth"}
    assert mine["truth"].settings["rates"] == mine["search"].settings["rates"] == [0.1, 0.01]
    assert mine["truth"].key != mine["search"].key


def test_an_expert_that_overlaps_with_the_source_is_skipped_or_measured_as_the_config_says():
    skipped = grid(parsed(CONFIG, "bench.toml"), EXPERTS, TASKS)
    assert skipped.skipped == {("oak", "birds"): "source overlap (nests)"}
    assert not [cell for cell in skipped.cells if (cell.expert, cell.task) == ("oak", "birds")]
    marked = grid(parsed({**CONFIG, "source_overlap": "mark"}, "bench.toml"), EXPERTS, TASKS)
    assert not marked.skipped
    assert {cell.key for cell in skipped.cells} < {cell.key for cell in marked.cells}


def test_a_reference_that_overlaps_with_the_source_is_not_searched():
    experts = {**EXPERTS, "ash": replace(EXPERTS["ash"], seen=("trees", "nests"))}
    assert {cell.task for cell in cells(CONFIG, experts) if cell.role == "search"} == {"fish"}


def test_first_seeds_come_first_scores_before_ground_truth_and_figures_last():
    found = cells({**CONFIG, "probe_seeds": [3, 1], "finetune_seeds": [4, 2]})
    rounds = [
        (cell.seed not in (3, 4, 0), {"score": 0, "truth": 1}[cell.kind] if cell.role in ("", "truth") and cell.kind != "kernel" else 2)
        for cell in found
    ]
    assert rounds == sorted(rounds)
    assert next(cell.kind for cell in found if cell.seed in (3, 4)) == "score"


def test_cells_of_one_group_are_adjacent():
    seen, last = set(), None
    for cell in cells():
        if cell.group != last and cell.role in ("", "truth"):
            assert cell.group not in seen
            seen.add(cell.group)
        last = cell.group


def test_scores_that_count_never_see_more_images_than_fine_tuning_or_the_paper():
    config = parsed({**CONFIG, "per_class": [5, 10, 30, "all"], "shots": [5, 12, 40, "full"]}, "bench.toml")
    assert [config.probe_of(shots) for shots in (5, 9, 12, 40, None)] == [5, 5, 10, 10, 10]
    assert config.probe_of(4) is None


def test_the_reference_network_sees_the_shots_for_which_its_scores_count():
    config = parsed({**CONFIG, "per_class": [5, 10, 25], "shots": [5, 20, 40]}, "bench.toml")
    assert [config.shots_seen("birds", probe) for probe in (5, 10, 25)] == [5, 20, 40]
    alone = parsed({**CONFIG, "per_class": [5, 10], "shots": [5]}, "bench.toml")
    assert alone.shots_seen("birds", 10) == 5
    assert parsed({**CONFIG, "per_class": [5, "all"], "shots": [5, "full"]}, "bench.toml").shots_seen("birds", None) is None


def test_synthetic_cells_are_all_different():
    made = {"experts": 3, "tasks": 2, "signal": 0.5}
    config = {"finetune_seeds": [0, 1], "synthetic": made}
    found = cells(config, {}, {})
    assert len({cell.key for cell in found}) == len(found) == 3 * 2 * 2
    assert not {cell.key for cell in found} & {cell.key for cell in cells({**config, "synthetic": {**made, "noise": 0.5}}, {}, {})}
    assert {cell.key for cell in found} < {cell.key for cell in cells({**config, "synthetic": {**made, "experts": 4}}, {}, {})}
    assert cells({"finetune_seeds": [0, 0], "synthetic": made}, {}, {}) == cells({"finetune_seeds": [0], "synthetic": made}, {}, {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experts": ["asch*"]}, r"experts = \['asch\*'\] matches no expert of the zoo.*Allowed: ash, elm, oak"),
        ({"reference": "aash"}, "no expert 'aash' in the zoo. Did you mean 'ash'"),
        ({"kernels": {"experts": ["el"], "tasks": ["birds"], "epochs": [0]}}, "no expert 'el' in the zoo. Did you mean 'elm'"),
        ({"reference": None, "untrained": []}, 'search_rates needs a reference expert to compare with.*Try: reference = "NAME"'),
        ({"reference": None, "search_rates": []}, "untrained needs a reference expert to compare with, and there is none"),
    ],
)
def test_unknown_names_are_refused(change, words):
    config = {name: value for name, value in {**CONFIG, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=words):
        cells(config)


def test_scores_are_a_set_and_options_that_no_score_uses_are_in_no_key():
    assert keys({**CONFIG, "scores": ["rsa", "lfc", "rsa"]})["score"] == keys()["score"]
    alone = {**CONFIG, "scores": ["lfc"]}
    assert keys({**alone, "reference_network": "resnet18"})["score"] == keys(alone)["score"]
    assert keys({**alone, "shots": [5, 20, "full"], "per_class": [5, 20]})["score"] == keys(alone)["score"]
    everything = next(cell for cell in cells({**CONFIG, "scores": ["all"]}) if cell.kind == "score").settings["scores"]
    assert {"lfc", "rsa", "leep"} < set(everything)
    assert "best_elsewhere" not in everything


def test_only_scores_that_use_other_tasks_are_refused():
    with pytest.raises(ConfigError, match=r"scores = \['best_elsewhere'\] names only scores that use accuracies on other tasks.*Try: another score"):
        cells({**CONFIG, "scores": ["best_elsewhere"]})


def test_entries_of_a_card_other_than_the_weights_affect_scores_alone():
    changed = {**EXPERTS, "ash": replace(EXPERTS["ash"], card_digest="a test accuracy was added")}
    before, after = keys(), keys(CONFIG, changed)
    assert {kind for kind in before if before[kind] != after[kind]} == {"score"}


def test_scores_that_count_for_several_shots_use_the_fewest():
    config = parsed({**CONFIG, "per_class": [5, 25], "shots": [5, 10, 30, "full"]}, "bench.toml")
    assert [config.shots_seen("birds", probe) for probe in (5, 25)] == [5, 30]


def test_a_reference_that_does_not_take_part_is_refused():
    with pytest.raises(ConfigError, match=r"The reference 'ash' matches none of experts = \['elm'\].*Try: its name among them"):
        cells({**CONFIG, "experts": ["elm"], "kernels": {**CONFIG["kernels"], "experts": ["elm"]}})


def test_all_images_of_kernels_are_none():
    for word in ("full", "all"):
        found = [cell.images for cell in cells({**CONFIG, "kernels": {**CONFIG["kernels"], "shots": word}}) if cell.kind == "kernel"]
        assert set(found) == {None}


def test_of_a_task_whose_flips_change_the_class_only_the_cells_without_a_named_augmentation_change():
    unflipped = {name: replace(facts, flips_keep_class=False) for name, facts in TASKS.items()}
    before, after = keys(), keys(CONFIG, EXPERTS, unflipped)
    assert not before["truth"] & after["truth"]
    assert before["score"] == after["score"]
    named = {**CONFIG, "recipe": {"epochs": 4, "augment": "crop"}}
    assert keys(named) == keys(named, EXPERTS, unflipped)
    assert keys(CONFIG, EXPERTS, {name: replace(facts, flips_keep_class=True) for name, facts in TASKS.items()}) == before
