"""User errors, warnings, and parts of their messages.

Every message names what was given, what is allowed and what to try. The command line prints these messages without a traceback;
any other exception is a defect of this package.
"""

import difflib
import sys
from collections.abc import Iterable, Sequence


class NtkSelectError(Exception):
    """Base class of errors in the user's input. The message is meant for the user."""


class TaskError(NtkSelectError, ValueError):
    """Invalid target task: labels, classes or number of images."""


class DataError(NtkSelectError, ValueError):
    """Unreadable file, archive or array of images."""


class ModelError(NtkSelectError, ValueError):
    """Invalid expert, checkpoint or card."""


class ConfigError(NtkSelectError, ValueError):
    """Invalid value of an option."""


class MissingDependencyError(NtkSelectError, ImportError):
    """A required optional package is not installed."""


class MemoryShrunkWarning(UserWarning):
    """Memory ran out, and the computation continues in smaller batches."""


class GeneralRouteWarning(UserWarning):
    """A leaf is used in a way without known structure; its gradients are computed by ordinary reverse mode per example."""


def near(given: str, allowed: Iterable[str]) -> str:
    """Suffix of an error message with close matches, as in " Did you mean 'lfc'?"; empty without any."""
    found = difflib.get_close_matches(str(given), sorted(allowed), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(name) for name in found)}?" if found else ""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Suffix of an error message with close matches and all allowed values. Use `near` for long lists."""
    allowed = sorted(allowed)
    return f"{near(given, allowed)} Allowed: {', '.join(allowed) if allowed else '(none)'}."


LONGEST = 500
"""Characters of a name or message of a stranger that a message quotes."""


def few(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, shortened, and the number of the others, as in "a, b and 3 more"."""
    return ", ".join(map(shortened, names[:most])) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def shortened(text: str) -> str:
    """The text, of which at most `LONGEST` characters are kept."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [...]"


def first_line(error: BaseException) -> str:
    """The first line of the message of an exception of another package, shortened."""
    try:
        return shortened(str(error).strip().partition("\n")[0])
    except Exception:  # a message that cannot be made is foreign code, too
        return ""


def explained(error: BaseException) -> str:
    """Type and first line of an exception of another package; the whole message of one of this package."""
    if isinstance(error, NtkSelectError):
        return str(error)
    line = first_line(error)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def not_finite(beginning: str) -> str:
    """Error message for NaN and infinity, beginning with a text such as "The kernel has"."""
    return f"{beginning} NaN or infinity. Usual causes: half precision, batch norm in training mode, inputs that were not normalised."


EXTRAS = {
    "POT": "scores",
    "datasets": "hf-datasets",
    "grain": "finetune",
    "huggingface-hub": "hub",
    "jinja2": "report",
    "matplotlib": "plot",
    "mlflow-skinny": "mlflow",
    "optuna": "hpo",
    "pandas": "pandas",
    "ray": "cluster",
    "scikit-learn": "scores",
    "timm": "torch",
    "torch": "torch",
    "torchax": "torch",
    "wandb": "wandb",
}
"""The extra of this package that installs an optional dependency."""


def missing(package: str, purpose: str) -> MissingDependencyError:
    """The error for a package that is not installed, or whose import has just failed for another reason: a library that does not fit, or no memory.
    `purpose` is a singular noun phrase, as in "The heat map of a kernel"."""
    error = sys.exception()
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
        why = f"which cannot be imported ({explained(error)}). Try: pip install --upgrade --force-reinstall {package}"
        return MissingDependencyError(f"{purpose} needs the package {package}, {why}")
    return MissingDependencyError(f"{purpose} needs the package {package}, which is not installed. {how_to_install(package)}")


def how_to_install(package: str) -> str:
    """Hint with the commands that install a package, or the extra that includes it."""
    extra = f", or in the folder of the repository: uv pip install -e '.[{EXTRAS[package]}]'" if package in EXTRAS else ""
    return f"Try: pip install {package}{extra}"


class UndefinedScoreError(NtkSelectError, ValueError):
    """A score is undefined for its inputs: a single class, constant features. `Score` converts it to `Unavailable`."""


# Escape sequences could move the cursor or change colours of the terminal; bidirectional marks could reverse a name.
_CONTROL = {code: ascii(chr(code))[1:-1] for code in (*range(10), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def escaped(text: str) -> str:
    """The text with control characters escaped, except newlines: names of files and tensors are untrusted."""
    return text.translate(_CONTROL)
