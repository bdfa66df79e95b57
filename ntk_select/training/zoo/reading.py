"""Reading and checking the config file of a zoo."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ntk_select._runtime.configs import Count, Number, checked, parse, read_text, record
from ntk_select.errors import ConfigError, ModelError, did_you_mean
from ntk_select.experts.multi_domain import check_sharing
from ntk_select.experts.preprocess import Preprocess
from ntk_select.models import ARCHITECTURES, build
from ntk_select.training.augment import AUGMENTATIONS, augmented
from ntk_select.training.feeding import SMALL
from ntk_select.training.loop import PRECISIONS
from ntk_select.training.zoo.config import LEARNING_RATES, SCHEDULES, STARTS, ZooConfig
from ntk_select.training.zoo.members import check_members


def read_config(path: str | Path) -> ZooConfig:
    """The config in a TOML file.

    Raises:
      ConfigError: it cannot be read, a field is missing, unknown, of another type or out of range, or a name is unknown.
    """
    path = Path(path).expanduser()
    config = record(ZooConfig, parse(read_text(path), path), str(path))
    try:
        config = _for_all_starts(config)
        _check(config)
        check_members(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _for_all_starts(config: ZooConfig) -> ZooConfig:
    """The same config with an initial source, and with epochs and rates per start."""
    if not config.sources:
        raise ConfigError('there is no source. Try: [sources.NAME], below it uri = "folder:{data}/birds" and epochs = 20')
    initial, rates = config.initial_source, config.learning_rate
    begun = [f"sources.{name}" for name, source in config.sources.items() if isinstance(source.epochs, dict) and "transfer" in source.epochs]
    begun += [f"multi_domain.{name}" for name, multi in config.multi_domain.items() if multi.start == "transfer"]
    if begun and not initial:
        raise ConfigError(
            f"the field 'initial_source' is missing: {', '.join(begun)} starts from its expert (\"transfer\"). Try: initial_source = the name of a source"
        )

    def starts(name: str) -> tuple[str, ...]:
        return STARTS if initial and name != initial else STARTS[:1]

    return replace(
        config,
        initial_source=initial or next(iter(config.sources)),
        learning_rate=LEARNING_RATES | rates if isinstance(rates, dict) else dict.fromkeys(STARTS, rates),
        sources={
            name: source if isinstance(source.epochs, dict) else replace(source, epochs=dict.fromkeys(starts(name), source.epochs))
            for name, source in config.sources.items()
        },
    )


def _check(config: ZooConfig) -> None:
    """Raises ConfigError for what the type of a field does not tell."""

    def one_of(name: str, value, allowed) -> None:
        if value not in allowed:
            raise ConfigError(f"{name} = {value!r} is unknown.{did_you_mean(value, allowed)}")

    try:
        preprocess = config.preprocess
    except (TypeError, ValueError, OverflowError) as error:  # ConfigError is a ValueError
        raise ConfigError(str(error)) from error
    one_of("schedule", config.schedule, SCHEDULES)
    one_of("precision", config.precision, PRECISIONS)
    one_of("initial_source", config.initial_source, config.sources)
    if not config.architectures and not config.multi_domain and not config.experts:
        raise ConfigError('architectures is empty: there is nothing to train. Try: architectures = ["resnet_small"]')
    for name, settings in config.networks.items():
        _check_network(name, settings)
    for start in config.learning_rate:
        one_of("a start in learning_rate", start, STARTS)
    for name, source in config.sources.items():
        for start, epochs in source.epochs.items():
            one_of(f"a start in sources.{name}.epochs", start, config.learning_rate)
            for architecture in config.architectures if isinstance(epochs, dict) else ():
                if architecture not in epochs:
                    raise ConfigError(f"sources.{name}.epochs.{start} has no number for the architecture {architecture!r}.")
        _check_augment(source.augment, preprocess, f"sources.{name}.augment")
    for name, expert in config.experts.items():
        one_of(f"experts.{name}.source", expert.source, config.sources)
    for name, multi in config.multi_domain.items():
        if name in config.sources:
            raise ConfigError(f"{name!r} is the name of a source and of a multi-domain expert. Try: another name for one of them")
        try:
            check_sharing(multi.sharing)
        except ConfigError as error:
            raise ConfigError(f"multi_domain.{name}: {error}") from error
        one_of(f"multi_domain.{name}.start", multi.start, STARTS)
        for source in multi.sources:
            one_of(f"a source of multi_domain.{name}", source, config.sources)
    _check_use(config)


def _check_use(config: ZooConfig) -> None:
    used = {expert.source for expert in config.experts.values()}
    used.update(source for multi in config.multi_domain.values() for source in multi.sources or config.sources)
    for name, source in config.sources.items():
        if not source.epochs and name not in used:
            raise ConfigError(
                f"sources.{name}: the field 'epochs' is missing, and no expert of [experts] or [multi_domain] is trained on this source. Try: epochs = 20"
            )


def _check_network(name: str, settings: Mapping[str, Any]) -> None:
    architecture = settings.get("architecture")
    if not isinstance(architecture, str):
        raise ConfigError(f'networks.{name} has no architecture. Try: architecture = "resnet18"')
    if name in ARCHITECTURES and name != architecture:
        raise ConfigError(f"networks.{name}: {name!r} is another architecture than {architecture!r}. Try: another name for this network")
    if "num_classes" in settings:
        raise ConfigError(f"networks.{name}: num_classes is that of the source. Try: without it")
    try:
        build(architecture, num_classes=2, **{key: value for key, value in settings.items() if key != "architecture"})
    except ModelError as error:
        raise ConfigError(f"networks.{name}: {error}") from error


def _check_augment(augment: str | Mapping[str, Any], preprocess: Preprocess, name: str) -> None:
    if isinstance(augment, str):
        if augment not in ("auto", *AUGMENTATIONS):
            raise ConfigError(f"{name} = {augment!r} is unknown.{did_you_mean(augment, ('auto', *AUGMENTATIONS))}")
        return
    options = {key: each.annotation for key, each in inspect.signature(augmented).parameters.items() if each.kind is each.KEYWORD_ONLY}
    for key, value in augment.items():
        if key not in options:
            raise ConfigError(f"{name}: {key!r} is unknown.{did_you_mean(key, options)}")
        checked({int: Count, float: Number}.get(options[key], options[key]), value, f"{name}: {key}")
    if preprocess.size > SMALL:
        raise ConfigError(f"{name}: options are for at most {SMALL} pixels. Above, name one of {', '.join(AUGMENTATIONS)}.")
