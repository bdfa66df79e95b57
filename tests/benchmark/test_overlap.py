"""Source overlap: the data sets that an expert has seen, those that it shares with a task, and warnings where one may be missed."""

import ntk_select as ns
from ntk_select.benchmark.config import parsed
from ntk_select.benchmark.overlap import overlapping_sources, seen_by_card, unknown_sources


def card(name: str, source: str, begun: str | None = None, domains=()) -> ns.Card:
    return ns.Card(name, "resnet18", source, ns.Preprocess(8), "", 2, initialised_from=begun, training={"domains": list(domains)} if domains else {})


def test_the_data_sets_of_an_expert_include_those_of_its_ancestors():
    cards = {
        "a": card("a", "trees"),
        "b": card("b", "birds", "a"),
        "c@fish": card("c@fish", "fish", "b", ["fish", "shells"]),
        "d": card("d", "birds", "not here"),
    }
    assert seen_by_card("a", cards) == ("trees",)
    assert seen_by_card("b", cards) == ("birds", "trees")
    assert seen_by_card("c@fish", cards) == ("fish", "shells", "birds", "trees")
    assert seen_by_card("d", cards) == ("birds",)
    assert seen_by_card("e", cards) == seen_by_card("nobody", cards) == ()


def test_experts_that_started_from_each_other_are_no_endless_loop():
    cards = {"a": card("a", "trees", "b"), "b": card("b", "birds", "a"), "c": card("c", "fish", "c")}
    assert seen_by_card("a", cards) == ("trees", "birds")
    assert seen_by_card("c", cards) == ("fish",)


def test_an_overlap_is_what_a_task_names_and_an_expert_has_seen():
    config = parsed({"tasks": {"birds": {"uri": "digits", "source": ["trees", "lakes"]}, "fish": {"uri": "digits"}}}, "bench.toml")
    assert overlapping_sources(config, "birds", ("lakes", "seas")) == ("lakes",)
    assert overlapping_sources(config, "birds", ("seas",)) == overlapping_sources(config, "fish", ("lakes",)) == ()


def test_what_may_hide_source_overlaps_is_reported():
    seen, parents = {"ash": ("trees",), "elm": ("lakes",)}, {"ash": None, "elm": "gone"}
    config = parsed({"tasks": {"birds": {"uri": "digits", "source": ["tree", "lakes"]}}}, "bench.toml")
    assert unknown_sources(config, seen, parents) == [
        "elm started from gone, which is not in the zoo: the data sets of that expert are not known.",
        "No expert names the source 'tree' of the task 'birds'.",
    ]


def test_a_task_without_a_source_that_is_called_like_one_is_reported():
    seen, parents = {"ash": ("digits",), "elm": ("lakes",)}, {"ash": None, "elm": None}
    tasks = {
        "small": {"uri": "digits"},
        "lakes": {"uri": "folder:lakes"},
        "trees": {"uri": "folder:trees"},
        "named": {"uri": "digits", "source": ["digits"]},
    }
    assert unknown_sources(parsed({"tasks": tasks}, "bench.toml"), seen, parents) == [
        "The task 'small' names no source, and experts were trained on 'digits'. If its images are from there: source = ['digits']",
        "The task 'lakes' names no source, and experts were trained on 'lakes'. If its images are from there: source = ['lakes']",
    ]
