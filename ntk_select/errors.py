"""What can go wrong because of what the user gave, and how it is said.

Every message says what was given, what is allowed and what to type. The command line prints these
messages without a traceback; anything else that is raised is a defect of this package.
"""

import difflib
from collections.abc import Iterable


class NtkSelectError(Exception):
    """A mistake in the input. The message is meant for the person who typed it."""


class TaskError(NtkSelectError, ValueError):
    """The target task cannot be used: labels, classes or number of images."""


class DataError(NtkSelectError, ValueError):
    """A file, archive or array of images cannot be read."""


class ModelError(NtkSelectError, ValueError):
    """An expert, a checkpoint or a card cannot be used."""


class ConfigError(NtkSelectError, ValueError):
    """An option has a value that is not allowed."""


class MissingDependencyError(NtkSelectError, ImportError):
    """An optional package is needed and not installed."""


def near(given: str, allowed: Iterable[str]) -> str:
    """The end of an error sentence: near matches if there are any, as in " Did you mean 'lfc'?"."""
    found = difflib.get_close_matches(str(given), sorted(allowed), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(name) for name in found)}?" if found else ""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """The end of an error sentence: near matches if there are any, and all that is allowed. `near` is for long lists."""
    allowed = sorted(allowed)
    return f"{near(given, allowed)} Allowed: {', '.join(allowed) if allowed else '(none)'}."


def first_line(error: Exception) -> str:
    """The first line of what somebody else's exception says."""
    return str(error).strip().partition("\n")[0]


def explained(error: Exception) -> str:
    """Somebody else's exception in a sentence; one of this package as it is."""
    return str(error) if isinstance(error, NtkSelectError) else f"{type(error).__name__}: {first_line(error)}"


def not_finite(beginning: str) -> str:
    """The sentence for NaN and infinity; it begins as in "The kernel holds"."""
    return f"{beginning} NaN or infinity. Usual causes: half precision, batch norm in training mode, inputs that were not normalised."


EXTRAS = {
    "POT": "scores",
    "grain": "finetune",
    "huggingface-hub": "hub",
    "jinja2": "report",
    "matplotlib": "plot",
    "optuna": "hpo",
    "pandas": "pandas",
    "ray": "cluster",
    "scikit-learn": "scores",
    "torch": "torch",
}
"""The extra of this package that brings an optional package."""


def missing(package: str, purpose: str) -> MissingDependencyError:
    """The error for a package that is not installed; `purpose` is one thing, as in "The heat map of a kernel"."""
    return MissingDependencyError(f"{purpose} needs the package {package}, which is not installed. {how_to_install(package)}")


def how_to_install(package: str) -> str:
    """What to type for a package, and for the extra that brings it with its kin."""
    extra = f", or: pip install 'ntk-select[{EXTRAS[package]}]'" if package in EXTRAS else ""
    return f"Type: pip install {package}{extra}"


class UndefinedScoreError(NtkSelectError, ValueError):
    """A score has no value on these inputs: one class only, constant features. `Score` turns it into `Unavailable`."""


# Escape sequences would move the cursor or recolour the terminal; marks of direction would turn a name around.
_UNSEEN = {code: ascii(chr(code))[1:-1] for code in (*range(10), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def escaped(text: str) -> str:
    """The text with its control characters written out: names of files and tensors are somebody else's. New lines stay."""
    return text.translate(_UNSEEN)
