"""Error of Proposition 1 in one step: f(w - lr grad) against f - lr Theta dL/df, over learning rates.

    python scripts/benchmarks/one_step_error.py                        # the embedded zoo on digits; a minute or two on two cores

For a smooth network the error of the linearisation falls with the square of the learning rate: slope 2. ReLU networks have
kinks, some of which a step of any length crosses; the measured slope is printed. Everything in float64.
"""

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402
import tyro  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import ntk_select as ns  # noqa: E402
from ntk_select.cli.options import split  # noqa: E402
from ntk_select.data import load_task  # noqa: E402
from ntk_select.linearized.network import NetworkProduct, as_network  # noqa: E402
from ntk_select.models import ZOO  # noqa: E402


def errors(expert: ns.Expert, x: np.ndarray, y: np.ndarray, lrs: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest eigenvalue's stable learning rate, and |f_1 - prediction| / |prediction - f_0| at shares of it."""
    params, state = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree) for tree in (expert.params, expert.state))
    fn = jax.jit(lambda params, x: expert.apply_fn({"params": params, **state}, x))
    product = NetworkProduct(as_network(fn, params), x, batch_size=len(x))
    start = np.asarray(fn(params, x))
    gradient = 2 * (start - y) / y.size
    stable = ns.linearized.max_stable_lr(product, shape=y.shape, loss="mean")
    direction, moved = product.pull(gradient), product(gradient)
    leaves, treedef = jax.tree.flatten(params)
    found = []
    for lr in lrs * stable:
        after = np.asarray(fn(jax.tree.unflatten(treedef, [leaf - lr * step for leaf, step in zip(leaves, direction, strict=True)]), x))
        found.append(np.linalg.norm(after - start + lr * moved) / np.linalg.norm(lr * moved))
    return stable, np.array(found)


def main(task: str = "digits", only: tuple[str, ...] = (), per_class: int = 2, shares: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)) -> None:
    """Measures and prints.

    Args:
      task: a task URI.
      only: names of experts; all by default.
      per_class: images per class.
      shares: learning rates in units of the largest stable one.
    """
    sample, lrs = ns.probe_sample(load_task(task), per_class=per_class), np.array(shares)
    table = Table(title=f"One step of descent on {task}, {len(sample)} images: error of the outputs' change, relative")
    for column in ("expert", *(f"lr {share:g}" for share in shares), "slope of the error"):
        table.add_column(column, justify="left" if column == "expert" else "right")
    slopes = []
    for name in split(only) or list(ZOO):
        expert = ns.with_new_head(ZOO[name](), len(sample.class_names))
        x = np.asarray(expert.preprocess(sample.images), np.float64)
        _, found = errors(expert, x, ns.linearized.targets(sample.labels), lrs)
        slopes.append(1 + np.polyfit(np.log(lrs), np.log(found), 1)[0])
        table.add_row(name, *(f"{error:.1e}" for error in found), f"{slopes[-1]:.2f}")
    console = Console(width=150)
    console.print(table)
    console.print(f"slopes: median {np.median(slopes):.2f}, from {min(slopes):.2f} to {max(slopes):.2f}; 2 for a smooth network")


if __name__ == "__main__":
    tyro.cli(main)
