"""A valid config is read as written, with its experts; every mistake is refused in a sentence that names the field and what is allowed."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ntk_select import Preprocess, Task
from ntk_select.errors import ConfigError
from ntk_select.models import FolderZoo
from ntk_select.training.zoo import MultiMember, SingleMember, members, read_config
from ntk_select.training.zoo.members import chosen

CONFIGS = Path(__file__).parents[3] / "scripts" / "configs"


def test_a_config_is_read_as_it_is_written(config):
    found = read_config(config)
    assert (found.seed, found.size, found.batch_size, found.momentum, found.nesterov) == (1, 8, 8, 0.9, True)
    assert found.preprocess == Preprocess(8, (0.5,) * 3, (0.25,) * 3)
    assert found.architectures == ("resnet_small",)
    assert found.learning_rate == {"scratch": 0.05, "transfer": 0.02}
    assert list(found.sources) == ["stripes", "dots"]
    assert found.sources["dots"].rename == {"c": "a"}
    assert found.sources["stripes"].augment == {"shift": 1}
    assert (found.multi_domain["both"].sharing, found.multi_domain["both"].start) == ("adapters", "scratch")


def test_every_config_of_this_repository_is_valid():
    configs = list(CONFIGS.glob("*_zoo.toml"))
    assert {path.name for path in configs} >= {"my_zoo.toml", "embedded_zoo.toml", "evidence_zoo.toml", "paper_zoo.toml"}
    for path in configs:
        assert read_config(path).sources


def test_every_field_that_the_config_to_copy_has_in_comments_is_valid(tmp_path):
    text, lines = re.subn(r"(?m)^# (?=\[|\w[\w-]* = )", "", (CONFIGS / "my_zoo.toml").read_text())
    (tmp_path / "config.toml").write_text(text)
    found = read_config(tmp_path / "config.toml")
    assert lines == 10
    assert [member.name for member in members(found)] == [
        *("digits-resnet_small", "mine-resnet_small", "mine-resnet_small-from-digits", "first", "second"),
    ]
    assert (found.extractor, found.experts["second"].start, found.sources["digits"].classes) == ("digits-resnet_small", "first", ("[0-4]",))


WRONG = {
    "no TOML": ("seed = 1", "seed = ", "config.toml is not valid TOML: "),
    "unknown field": ("seed = 1", "sead = 1", r"config.toml: the field 'sead' is unknown. Did you mean 'seed'"),
    "missing field": ("size = 8", "", "config.toml: the field 'size' is missing"),
    "missing in a source": (
        'uri = "npz:{data}/stripes.npz"\nlicence = "made by the test"\nepochs = { s',
        "epochs = { s",
        r"\[sources.stripes\]: .*'uri' is m",
    ),
    "unknown in a source": ("rename =", "renames =", r"\[sources.dots\]: the field 'renames' is unknown. Did you mean 'rename'"),
    "unknown in an expert for many": ("images_per_epoch", "images", r"\[multi_domain.both\]: the field 'images' is unknown"),
    "a number as text": ("seed = 1", 'seed = "1"', "config.toml: seed = '1' must be a whole number"),
    "a negative number": ("seed = 1", "seed = -1", "seed = -1 must be a whole number from 0"),
    "true for a number": ("seed = 1", "seed = true", "seed = True must be a whole number"),
    "a fraction": ("batch_size = 8", "batch_size = 8.5", "batch_size = 8.5 must be a whole number"),
    "not a number": ("weight_decay = 5e-4", "weight_decay = nan", "weight_decay = nan must be a number from 0"),
    "infinity": ("weight_decay = 5e-4", "weight_decay = inf", "weight_decay = inf must be a finite number"),
    "a number for true or false": ("seed = 1", "nesterov = 1", "nesterov = 1 must be true or false"),
    "a text for a list": ('architectures = ["resnet_small"]', 'architectures = "resnet_small"', "architectures = 'resnet_small' must be a list"),
    "numbers in a list of texts": ('architectures = ["resnet_small"]', "architectures = [1]", "architectures contains 1, which must be text"),
    "texts in a list of numbers": ("seed = 1", 'milestones = ["a"]', "milestones contains 'a', which must be a whole number"),
    "lists in a list of texts": ("batch_size = 6", 'sources = [["dots"]]', r"sources contains \['dots'\], which must be text"),
    "a number to rename to": ('rename = { c = "a" }', "rename = { c = 1 }", r"\[sources.dots\]: rename.c = 1 must be text"),
    "a text as rate": ("scratch = 0.05", 'scratch = "a"', "learning_rate.scratch = 'a' must be a number"),
    "half a table": (
        "epochs = { scratch = 3 }",
        "epochs = 2.5",
        "epochs = 2.5 must be a whole number or a table, as in 20 or { scratch = 20, transfer = 10 }",
    ),
    "a number for text or table": ("augment = { shift = 1 }", "augment = 1", "augment = 1 must be text or a table, as in .crop. or { shift = 3"),
    "no size": ("size = 8\n", "size = 0\n", "config.toml: size = 0 must be a whole number from 1"),
    "means that are no numbers": (
        "mean = [0.5, 0.5, 0.5]",
        'mean = ["a", "b", "c"]',
        "config.toml: mean contains 'a', which must be a number",
    ),
    "too few means": ("mean = [0.5, 0.5, 0.5]", "mean = [0.5]", "config.toml: Preprocess: mean="),
    "schedule": ("seed = 1", 'schedule = "stop"', "schedule = 'stop' is unknown. Did you mean 'step'.*Allowed: cosine, step"),
    "precision": ("seed = 1", 'precision = "float16"', "precision = 'float16' is unknown.*Allowed: bfloat16, float32"),
    "initial source": ('initial_source = "stripes"', 'initial_source = "strips"', "initial_source = 'strips' is unknown. Did you mean 'stripes'"),
    "no batch": ("batch_size = 8", "batch_size = 0", "config.toml: batch_size = 0 must be a whole number from 1"),
    "warmup": ("warmup = 0.15", "warmup = 1", "warmup = 1 must be a number below 1"),
    "momentum": ("warmup = 0.15", "momentum = 1.0", "momentum = 1.0 must be a number below 1"),
    "start": ("transfer = 0.02", "transfre = 0.02", "a start in learning_rate = 'transfre' is unknown. Did you mean 'transfer'"),
    "no rate": ("scratch = 0.05", "scratch = 0", "learning_rate.scratch = 0 must be a number above 0"),
    "another start": (
        "epochs = { transfer",
        "epochs = { transfre",
        "a start in sources.dots.epochs = 'transfre' is unknown.*Allowed: scratch, transfer",
    ),
    "a start from nowhere": (
        'initial_source = "stripes"',
        "",
        r"'initial_source' is missing: sources.dots starts from its expert .\"transfer\".. Try: initial_source = the name",
    ),
    "no epochs": ("epochs = { scratch = 3 }", "epochs = { scratch = 0 }", r"\[sources.stripes\]: epochs.scratch = 0 must be a whole number from 1"),
    "half an epoch": (
        "{ resnet_small = 1 }",
        "{ resnet_small = 1.5 }",
        r"\[sources.dots\]: epochs.transfer.resnet_small = 1.5 must be a whole number",
    ),
    "epochs of another": (
        "{ resnet_small = 1 }",
        "{ resnet18 = 1 }",
        "sources.dots.epochs.transfer has no number for the architecture 'resnet_small'",
    ),
    "augmentation": ("augment = { shift = 1 }", 'augment = "crops"', "sources.stripes.augment = 'crops' is unknown. Did you mean 'crop'"),
    "option": ("shift = 1", "shfit = 1", "sources.stripes.augment: 'shfit' is unknown. Did you mean 'shift'"),
    "half a pixel": ("shift = 1", "shift = 1.5", "sources.stripes.augment: shift = 1.5 must be a whole number"),
    "a flip of three": ("flip_horizontal = true", "flip_horizontal = 3", "augment: flip_horizontal = 3 must be true or false"),
    "options of large images": (
        "size = 8\n",
        "size = 65\n",
        "sources.stripes.augment: options are for at most 64 pixels. Above, name one of crop_flip",
    ),
    "two of one name": (
        "[multi_domain.both]",
        "[multi_domain.dots]",
        "'dots' is the name of a source and of a multi-domain expert. Try: another name",
    ),
    "sharing": ('sharing = "adapters"', 'sharing = "adapter"', "multi_domain.both: sharing='adapter' is unknown. Did you mean 'adapters'"),
    "start of many": ("batch_size = 6", 'start = "here"', "multi_domain.both.start = 'here' is unknown"),
    "a domain": ("batch_size = 6", 'sources = ["dot"]', "a source of multi_domain.both = 'dot' is unknown. Did you mean 'dots'"),
    "no epochs of many": ("epochs = 3\n", "epochs = 0\n", r"\[multi_domain.both\]: epochs = 0 must be a whole number from 1"),
    "no batch of many": ("batch_size = 6", "batch_size = 0", r"\[multi_domain.both\]: batch_size = 0 must be a whole number from 1"),
    "no images of many": (
        "images_per_epoch = 18",
        "images_per_epoch = 0",
        r"\[multi_domain.both\]: images_per_epoch = 0 must be a whole number from 1",
    ),
    "no table of tables": (
        "[sources.stripes]",
        "[sources]\nstripes = 3\n[sources.other]",
        r"sources.stripes = 3 must be a table, as in \[sources.stripes\]",
    ),
    "a name with a slash": ("[sources.dots]", '[sources."do/ts"]', r"\[sources.do/ts\]: a name consists of letters"),
    "a hidden name": ("[sources.dots]", '[sources.".dots"]', r"\[sources..dots\]: a name .*begins with neither dot nor dash"),
}


def test_a_wrong_config_is_refused(text, config, check_refusals):
    assert {name for name, (old, _, _) in WRONG.items() if old not in text} == set()
    check_refusals(read_config, config, {name: (text.replace(old, new, 1), words) for name, (old, new, words) in WRONG.items()})


def test_all_mistakes_in_fields_are_in_one_message(tmp_path):
    (tmp_path / "config.toml").write_text('sead = 1\n[sources.one]\nuir = "digits"\n[sources.two]\nuri = 2\n[multi_domain.all]\nsharing = "shared"\n')
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "config.toml")
    lines = [line.removeprefix(str(tmp_path)) for line in str(caught.value).splitlines()]
    for line, part in zip(
        lines,
        (
            "/config.toml: the field 'sead' is unknown. Did you mean 'seed'",
            "/config.toml: the field 'size' is missing. Write size = 32",
            "/config.toml, [sources.one]: the field 'uir' is unknown. Did you mean 'uri'",
            "/config.toml, [sources.one]: the field 'uri' is missing. Write uri = \"folder:{data}/birds\"",
            "/config.toml, [sources.two]: uri = 2 must be text",
            "/config.toml, [multi_domain.all]: the fields 'architecture', 'epochs', 'learning_rate' are missing.",
        ),
        strict=True,
    ):
        assert line.startswith(part)


SMALL = 'size = 8\narchitectures = ["resnet_small"]\n[sources.one]\nuri = "digits"\nepochs = 2\n[sources.two]\nuri = "digits"\nepochs = 3\n'


def test_a_number_of_epochs_is_for_all_starts_and_rates_have_defaults(tmp_path):
    def read(text):
        (tmp_path / "config.toml").write_text(text)
        return read_config(tmp_path / "config.toml")

    found = read(SMALL)
    assert {name: source.epochs for name, source in found.sources.items()} == {"one": {"scratch": 2}, "two": {"scratch": 3}}
    assert found.learning_rate == read_config(CONFIGS / "embedded_zoo.toml").learning_rate
    assert [member.name for member in members(found)] == ["one-resnet_small", "two-resnet_small"]
    found = read('initial_source = "two"\nlearning_rate = 0.3\n' + SMALL)
    assert {name: source.epochs for name, source in found.sources.items()} == {"one": {"scratch": 2, "transfer": 2}, "two": {"scratch": 3}}
    assert found.learning_rate == {"scratch": 0.3, "transfer": 0.3}
    assert [member.name for member in members(found)] == ["two-resnet_small", "one-resnet_small", "one-resnet_small-from-two"]
    assert read("learning_rate = { transfer = 0.2 }\n" + SMALL).learning_rate == {"scratch": 0.1, "transfer": 0.2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("size = 8", r"there is no source. Try: \[sources.NAME\]"),
        (SMALL.replace('["resnet_small"]', "[]"), r"architectures is empty: there is nothing to train"),
        (
            SMALL.replace("epochs = 2\n", ""),
            r"sources.one: the field 'epochs' is missing, and no expert of \[experts\] or .* this source. Try: epochs = 20",
        ),
        (SMALL.replace("epochs = 2", "epochs = {}"), r"sources.one: the field 'epochs' is missing"),
        (SMALL.replace("epochs = 2", "epochs = 0"), r"\[sources.one\]: epochs = 0 must be a whole number from 1, as in 20 or"),
    ],
)
def test_a_small_config_without_something_to_do_is_refused(tmp_path, text, sentence):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_config(tmp_path / "config.toml")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="The config .*none.toml cannot be read: No such file or directory. Try: the path of a TOML file"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="The config .*bytes.toml cannot be read: 'utf-8'"):
        read_config(tmp_path / "bytes.toml")


@pytest.mark.parametrize(("flips_keep_class", "stands_for"), [(False, "crop"), (None, "crop_flip"), (True, "crop_flip")])
def test_without_a_named_augmentation_images_whose_class_changes_with_flips_are_not_flipped(tmp_path, text, flips_keep_class, stands_for):
    (tmp_path / "config.toml").write_text(text.replace("augment = { shift = 1 }\n", ""))
    config = read_config(tmp_path / "config.toml")
    task = Task("t", np.zeros((2, 8, 8), np.uint8), np.array([0, 1]), ("a", "b"), flips_keep_class=flips_keep_class)
    assert config.sources["stripes"].augment == "auto"
    assert config.sources["stripes"].augmentation(config.preprocess, task) == stands_for
    assert config.sources["dots"].augmentation(config.preprocess, task) == config.sources["dots"].augment


def test_members_are_ordered_with_parents_first(config):
    found = read_config(config)
    both = replace(found.sources["dots"], epochs={"transfer": {"resnet_small": 1, "densenet_small": 4}, "scratch": 2})
    stripes = replace(found.sources["stripes"], epochs={"transfer": 5, "scratch": 3})
    found = replace(found, architectures=("resnet_small", "densenet_small"), sources={"dots": both, "stripes": stripes})
    wanted = [
        ("stripes-resnet_small", 3, None),
        ("stripes-resnet_small-from-stripes", 5, "stripes-resnet_small"),
        ("stripes-densenet_small", 3, None),
        ("stripes-densenet_small-from-stripes", 5, "stripes-densenet_small"),
        ("dots-resnet_small", 2, None),
        ("dots-resnet_small-from-stripes", 1, "stripes-resnet_small"),
        ("dots-densenet_small", 2, None),
        ("dots-densenet_small-from-stripes", 4, "stripes-densenet_small"),
    ]
    *singles, multi = members(found)
    assert [(member.name, member.epochs, member.initialised_from) for member in singles] == wanted
    assert {member.start: member.learning_rate for member in singles} == {"scratch": 0.05, "transfer": 0.02}
    assert all(member.files == ("card.json",) for member in singles)
    assert (multi.name, multi.architecture, multi.sources, multi.initialised_from) == ("both-resnet_small", "resnet_small", ("dots", "stripes"), None)
    assert multi.files == ("card@dots.json", "card@stripes.json")


def test_a_multi_domain_expert_may_name_its_domains_and_start_from_the_initial_source(config):
    found = read_config(config)
    both = replace(found.multi_domain["both"], sources=("dots",), start="transfer")
    (multi,) = members(replace(found, architectures=(), multi_domain={"one": both}))
    assert (multi.name, multi.sources, multi.initialised_from) == ("one-resnet_small", ("dots",), "stripes-resnet_small")


def test_only_existing_names_can_be_chosen(config):
    found = read_config(config)
    assert [member.name for member in chosen(found, "dots")] == ["dots-resnet_small-from-stripes"]
    with pytest.raises(ConfigError, match=r"No expert's name contains 'cats'. Available: stripes-resnet_small, "):
        chosen(found, "cats")
    with pytest.raises(ConfigError, match=r"The architecture 'resnet_smal' is unknown. Did you mean 'resnet_small'"):
        chosen(replace(found, multi_domain={"both": replace(found.multi_domain["both"], architecture="resnet_smal")}))


def test_the_embedded_zoo_is_that_of_its_config():
    config = read_config(CONFIGS / "embedded_zoo.toml")
    zoo, wanted = FolderZoo(CONFIGS.parents[1] / "models" / "weights"), members(config)
    singles = {member.name: member for member in wanted if isinstance(member, SingleMember)}
    assert {name for name in zoo if "@" not in name} == set(singles)
    for name, member in singles.items():
        card = zoo[name].card
        assert (card.training["epochs"], card.training["learning_rate"], card.initialised_from, card.source) == (
            member.epochs,
            member.learning_rate,
            member.initialised_from,
            member.source,
        )
        assert card.training["augment"] == config.sources[member.source].augment
    multis = {member.name: member for member in wanted if isinstance(member, MultiMember)}
    for name in (name for name in zoo if "@" in name):
        card, (folder, domain) = zoo[name].card, name.split("@")
        member = multis[folder]
        assert domain in member.sources
        assert card.training["domains"] == list(member.sources)
        assert (card.training["epochs"], card.training["sharing"], card.initialised_from, card.source) == (
            member.config.epochs,
            member.config.sharing,
            member.initialised_from,
            domain,
        )
