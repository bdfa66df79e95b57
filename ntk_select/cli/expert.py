"""How does a command get the one expert that it was told?"""

from collections.abc import Callable, Sequence

from ntk_select.cli.console import split
from ntk_select.errors import ModelError, did_you_mean
from ntk_select.expert import Expert


def load_expert(open_zoo: Callable, zoo: Sequence[str], name: str) -> Expert:
    """The expert `name` of the zoos, able to take images.

    Args:
      open_zoo: the entry point of that name.

    Raises:
      ModelError: there is none, or it has no preprocess.
    """
    experts = open_zoo(split(zoo))
    if name not in experts:
        raise ModelError(f"There is no expert {name!r} in the zoo.{did_you_mean(name, experts)}")
    expert = experts[name]()
    if expert.preprocess is None:
        raise ModelError(
            f"Expert {expert.name!r} has no preprocess, so that images cannot enter it. Type: Expert(..., preprocess=Preprocess(size=224))"
        )
    return expert
