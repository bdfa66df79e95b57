"""Which laws are tried, in which order, on what, and what is the usual cause when one fails?"""

from collections.abc import Callable
from typing import NamedTuple

from ntk_select.selfcheck import function, kernel
from ntk_select.selfcheck.record import Outcome
from ntk_select.selfcheck.subject import Subject


class Law(NamedTuple):
    """A law in words, what is compared, the usual cause of failure, how it is tried, and which laws it needs."""

    law: str
    compared: str
    cause: str
    compare: Callable[[Subject], Outcome]
    needs: tuple[str, ...] = ()


FINITE, APART, ADJOINT = "the kernel is finite", "examples are apart", "forward mode = reverse mode"
DEFECT = "a defect of this package, please report it with print(ns.ntk_plan(...)); or products that are rounded, see precision."

LAWS = (
    Law("no batch statistics", "names of the parameters", "", function.no_statistics),
    Law(
        APART,
        "fn of all examples, of each alone",
        "batch norm in training mode, dropout, or another mean over the batch: switch to evaluation.",
        function.apart,
    ),
    Law(
        ADJOINT,
        "<J u, v> and <u, J'v>",
        "a derivative rule whose two directions differ, such as a solver called symmetric that is not; or NaN: zero times infinity, as in the square root of a relu.",
        function.adjoint,
    ),
    Law(
        "derivatives fit values",
        "J u and central differences",
        "a custom_jvp, custom_vjp or stop_gradient with another derivative, which may be meant (straight-through estimators).",
        function.slopes,
    ),
    Law("Euler: <W, grad f> = f", "the last linear layer", "a derivative rule of its own in the last layer.", function.euler),
    Law(FINITE, "full and trace", "half precision, inputs that were not normalised.", kernel.finite),
    Law("engine = textbook, full", "method='jacobian'", DEFECT, kernel.textbook_full, (FINITE,)),
    Law("engine = textbook, trace", "method='jacobian'", DEFECT, kernel.textbook_trace, (FINITE,)),
    Law("sample space = parameter space", "space='sample', 'parameter'", DEFECT, kernel.spaces, (FINITE,)),
    Law("v' Theta v = ||grad||^2", "one gradient of sum v f", DEFECT, kernel.form, (FINITE,)),
    Law("Theta v = product without Theta", "ns.ntk_vector_product", DEFECT, kernel.product, (FINITE, ADJOINT)),
    Law("diagonal = squared norms", "gradients of single outputs", DEFECT, kernel.norms, (FINITE,)),
    Law("sum over layers = whole", "by_layer=True", DEFECT, kernel.layers, (FINITE,)),
    Law("trace and sum are parts of full", "outputs=", DEFECT, kernel.parts, (FINITE,)),
    Law("Theta of 2 f = 4 Theta", "2 f, outputs reversed", DEFECT, kernel.doubled, (FINITE,)),
    Law(
        "order and batches do not matter",
        "examples reversed, batch_size",
        "products rounded differently in other shapes; or " + DEFECT,
        kernel.reordered,
        (FINITE,),
    ),
    Law("Theta(x2, x1) = Theta(x1, x2)'", "some examples against all", DEFECT, kernel.swapped, (FINITE,)),
    Law("exactly symmetric", "full and trace", DEFECT, kernel.symmetric, (FINITE,)),
    Law(
        "positive semi-definite",
        "eigenvalues of full",
        "products rounded to TF32 or bfloat16: precision='highest', or accumulate='float64'.",
        kernel.definite,
        (FINITE,),
    ),
    Law(
        "float32 = float64",
        "trace",
        "sums that cancel, or large numbers through a sine or an exponential: compute in float64.",
        kernel.other_type,
        (FINITE,),
    ),
)
