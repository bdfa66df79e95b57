"""How does a command get the one expert that it was told?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ntk_select.cli.console import command, split, zoo_option
from ntk_select.errors import ModelError, near

if TYPE_CHECKING:
    from ntk_select.experts.expert import Expert


def no_such_expert(name: str, experts: Iterable[str], zoo: Sequence[str], option: str = "") -> ModelError:
    """The error for a name that the zoo does not have; `option` is where it was given."""
    place = f"{option}: there" if option else "There"
    listing = command("zoo", "list", *zoo_option(zoo))
    return ModelError(f"{place} is no expert {name!r} in the zoo.{near(name, experts)} To see what there is type: {listing}")


def load_expert(open_zoo: Callable, zoo: Sequence[str], name: str) -> Expert:
    """The expert `name` of the zoos, able to take images.

    Args:
      open_zoo: the entry point of that name.

    Raises:
      ModelError: there is none, or it has no preprocess.
    """
    experts = open_zoo(split(zoo))
    if name not in experts:
        raise no_such_expert(name, experts, zoo)
    expert = experts[name]()
    if expert.preprocess is None:
        raise ModelError(
            f"Expert {expert.name!r} has no preprocess, so that images cannot enter it. Type: Expert(..., preprocess=Preprocess(size=224))"
        )
    return expert
