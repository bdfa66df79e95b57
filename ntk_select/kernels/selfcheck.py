"""Self-check of a model: whether its function has an exact kernel, and whether the engine computes that kernel."""

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from ntk_select._runtime.checks import check_count, is_number
from ntk_select.errors import ConfigError, first_line
from ntk_select.kernels.engine import GeneralRouteWarning, certify, ntk, ntk_plan
from ntk_select.kernels.engine.arguments import check_precision, count_examples, leaf_names, read_examples, select, some_examples
from ntk_select.kernels.engine.vector_product import hold

__all__ = ["Check", "SelfCheck", "selfcheck"]

EXAMPLES, OUTPUTS, ROWS_BYTES = 8, 3, 2**30
VERDICTS = ("holds", "FAILS", "skipped", "notice")
STATISTICS = {"mean", "var", "variance", "stats"}
TYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}  # from coarse to fine, as programs print them
STEPS = {"float64": [10.0**-i for i in range(3, 10)], "float32": [10 ** (-i / 2) for i in range(2, 11)]}
NOTHING = math.nan, math.nan  # difference and tolerance where no numbers are compared
INDEPENDENT, FINITE = "examples are independent", "the kernel is finite"
DEPENDENT = "batch norm in training mode, dropout, or another mean over the batch: switch to evaluation."
DERIVATIVES = (
    "a custom_jvp, custom_vjp or stop_gradient with another derivative, which may be meant (straight-through estimators); forward and reverse mode "
    "that differ, as of a solver called symmetric that is not; or NaN: zero times infinity, as in the square root of a relu."
)
DEFECT = "a defect of this package, please report it with print(ns.ntk_plan(...)); or products that are rounded, see precision."
ROUNDED = "products rounded to TF32 or bfloat16: precision='highest', or accumulate='float64'."


@dataclass(frozen=True)
class Check:
    """One identity and its verdict.

    Attributes:
      law: the identity.
      compared: its two sides.
      verdict: "holds", "FAILS", "skipped", or "notice" (worth a look, but no failure).
      difference: the largest, relative to the largest number compared; NaN if no numbers were compared.
      tolerance: the largest difference allowed.
      remark: the usual cause of a failure; why it was skipped; or further findings.
    """

    law: str
    compared: str
    verdict: str
    difference: float = math.nan
    tolerance: float = math.nan
    remark: str = ""


@dataclass(frozen=True)
class SelfCheck:
    """The result of `selfcheck`. Print it.

    Attributes:
      subject: number of examples and outputs compared, and the precision of the function.
      checks: a `Check` for each law.
    """

    subject: str
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether no check fails. Skipped checks and notices do not count."""
        return not any(check.verdict == "FAILS" for check in self.checks)

    def __str__(self):
        counts = {verdict: sum(check.verdict == verdict for check in self.checks) for verdict in VERDICTS}
        widths = [max(len(text) for text in ("law", *(check.law for check in self.checks))), max(len(check.compared) for check in self.checks)]
        lines = [
            f"{self.subject}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count),
            "",
            f"{'law':{widths[0]}}  {'compared':{widths[1]}}  difference  tolerance  verdict",
        ]
        for check in self.checks:
            difference, tolerance = ("-" if math.isnan(value) else f"{value:.1e}" for value in (check.difference, check.tolerance))
            lines.append(f"{check.law:{widths[0]}}  {check.compared:{widths[1]}}  {difference:>10}  {tolerance:>9}  {check.verdict}")
            lines += [f"    {check.remark}"] if check.remark else []
        return "\n".join(lines)

    __repr__ = __str__


def selfcheck(
    fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    layers: str | Callable[[str], bool] | None = None,
    precision: str = "highest",
    tolerance: float | None = None,
    seed: int = 0,
) -> SelfCheck:
    """Checks identities of the exact kernel on your own model: `print(ns.selfcheck(fn, params, x))`.

    Whether fn has a kernel: examples independent of each other, derivatives that fit its values (`jax.test_util.check_grads`,
    forward and reverse). Whether the engine computes it: equal to explicit Jacobians, finite, exactly symmetric, positive
    semi-definite. A law that fails does not raise; its line names the usual cause.

    Derivatives are compared at the first example along two directions in the selected parameters, the gradient and a random
    one, in the dtype of fn (half precision is too coarse). Forward and reverse mode must agree with each other and with
    finite differences at the best of several steps: large steps cross kinks of relus, small ones are dominated by rounding.
    The parameters are first perturbed by about a thousandth, so that zeros are not on a kink.

    Args:
      fn, params, layers, precision: See `ntk`.
      x: examples. The first 8 are used, fewer if gradients are large. More than 3 outputs are replaced by 3 random
        combinations, as stated in the result.
      tolerance: largest difference allowed, relative to the largest number compared. None: 1e-9 in float64, 1e-4 in
        float32, 0.1 in half precision, and at least 1e-2 if `precision` allows an accelerator to round. For
        semi-definiteness a tenth of it, for finite differences at least 1e-4 (float64) or 0.1 (float32); symmetry must be
        exact.
      seed: Seed of the random directions.

    Returns:
      A `SelfCheck`.

    Raises:
      ConfigError: fn, params, x or an option does not fit, as for `ntk`.

    Cost: about four kernels, nearly all of the time for compiling: seconds for a few layers, minutes for a deep network
    on a CPU. Memory of 24 gradients, at most 1 GiB of them, but never less than two examples' (6 gradients).
    """
    check_precision(precision)
    if tolerance is not None and (not is_number(tolerance) or not 0 < tolerance < math.inf):
        raise ConfigError(f"tolerance={tolerance!r} must be a positive number, for example tolerance=1e-6.")
    check_count("seed", seed, 0)
    x, chosen, draw, checks = read_examples(x, "x"), select(params, layers), np.random.default_rng(seed).normal, []
    with jax.default_matmul_precision(precision), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "params hold batch statistics")  # reported below
        ntk_plan(fn, params, x, layers=layers)
        warnings.simplefilter("ignore", GeneralRouteWarning)  # ntk_plan has warned
        one = some_examples(x, slice(1))
        program, out = str(jax.make_jaxpr(fn)(params, one)), jax.eval_shape(fn, params, one)
        kind = next((name for printed, name in TYPES.items() if re.search(rf"\b{printed}\[", program)), "low precision")
        rounds = precision != "highest" and jax.default_backend() != "cpu"
        tolerance = tolerance or max({"float64": 1e-9, "float32": 1e-4}.get(kind, 0.1), 1e-2 if rounds else 0)
        c = math.prod(out.shape)
        k, mix = min(OUTPUTS, c), np.linalg.qr(draw(size=(c, OUTPUTS)))[0].astype(out.dtype) if c > OUTPUTS else None

        def few(params, x):
            return fn(params, x).reshape(-1, c) if mix is None else fn(params, x) @ mix

        call, leaves, held = hold(few, params, chosen)
        fit = ROWS_BYTES // (8 * k * sum(leaf.size for leaf in leaves))
        x = some_examples(x, slice(max(2, min(EXAMPLES, fit))))
        n, names, apply, kernels = count_examples(x), [leaf_names(params)[index] for index in chosen], jax.jit(few), {}

        def kernel(outputs: str, **options):
            return np.asarray(ntk(few, params, x, outputs=outputs, layers=layers, precision=precision, **options))

        def independent():
            alone = np.concatenate([apply(params, some_examples(x, slice(i, i + 1))) for i in range(n)])
            return _within(_relative(apply(params, x), alone), tolerance, DEPENDENT)

        def derivatives():
            v = draw(size=k)
            value = jax.jit(lambda leaves, held, x: jnp.vdot(call(leaves, held, x)[0], v.astype(out.dtype)))
            return _derivatives(lambda leaves: value(leaves, held, one), leaves, kind, tolerance, program, draw)

        def finite():
            kernels.update({outputs: kernel(outputs) for outputs in ("full", "trace")})
            holds = all(np.isfinite(kernel).all() for kernel in kernels.values())
            return ("holds", *NOTHING, "") if holds else ("FAILS", *NOTHING, "Usual cause: half precision, inputs that were not normalised.")

        def equal(outputs: str):
            return _within(_relative(kernels[outputs], kernel(outputs, method="jacobian")), tolerance, DEFECT)

        def symmetric():
            return _within(max(certify(kernel).asymmetry for kernel in kernels.values()), 0, DEFECT)

        def definite():
            found = certify(kernels["full"])
            remark = f"Eigenvalues {found.smallest:.2g} to {found.largest:.2g}, rank {found.rank} of {found.n}."
            return _within(max(0.0, -found.smallest) / (found.largest or 1.0), tolerance / 10, ROUNDED, remark)

        _add(checks, "no batch statistics", "names of the parameters", partial(_no_statistics, names))
        _add(checks, INDEPENDENT, "fn of all examples, of each alone", independent)
        _add(checks, "derivatives fit values", "check_grads of one example", derivatives)
        _add(checks, FINITE, "full and trace", finite, (INDEPENDENT,))
        for outputs in ("full", "trace"):
            _add(checks, f"engine = Jacobian, {outputs}", "method='jacobian'", partial(equal, outputs), (INDEPENDENT, FINITE))
        _add(checks, "exactly symmetric", "full and trace", symmetric, (INDEPENDENT, FINITE))
        _add(checks, "positive semi-definite", "eigenvalues of full", definite, (INDEPENDENT, FINITE))
    outputs = f"{k} random combinations of {c} outputs" if mix is not None else f"{c} outputs"
    return SelfCheck(f"{n} example{'' if n == 1 else 's'}, {outputs}, {kind}", tuple(checks))


Outcome = tuple[str, float, float, str]  # verdict, difference, tolerance, remark


def _add(checks: list[Check], law: str, compared: str, run: Callable[[], Outcome], needs: tuple[str, ...] = ()) -> None:
    broken = [check.law for check in checks if check.law in needs and check.verdict != "holds"]
    try:
        outcome = ("skipped", *NOTHING, f"It needs the law: {broken[0]}.") if broken else run()
    except Exception as error:  # any error of the model is a finding, and the other laws are still worth checking
        outcome = "FAILS", *NOTHING, f"{type(error).__name__}: {first_line(error)}"
    checks.append(Check(law, compared, *outcome))


def _within(difference: float, tolerance: float, cause: str, remark: str = "") -> Outcome:
    holds = difference <= tolerance
    return "holds" if holds else "FAILS", difference, tolerance, remark if holds else f"Usual cause: {cause} {remark}".strip()


def _relative(given, expected) -> float:
    """Largest difference over the largest number expected; NaN and NaN are equal."""
    given, expected = np.asarray(given, np.float64), np.asarray(expected, np.float64)
    if given.shape != expected.shape:
        return math.inf
    differ = ~((given == expected) | (np.isnan(given) & np.isnan(expected)))
    scale = np.abs(expected).max()
    return float(np.abs(given - expected)[differ].max() / scale if scale else math.inf) if differ.any() else 0.0


def _no_statistics(names: list[str]) -> Outcome:
    found = [name for name in names if STATISTICS.intersection(re.split(r"[/_.]", name.lower()))]
    shown = ", ".join([*found[:3], *(["..."] if len(found) > 3 else [])])
    remark = f"{shown}: if these are batch statistics, leave them out of params (or of layers=); the kernel is not theirs."
    return ("notice", *NOTHING, remark) if found else ("holds", *NOTHING, "")


def _derivatives(value: Callable, leaves: list, kind: str, tolerance: float, program: str, draw: Callable) -> Outcome:
    """check_grads of t -> value(leaves + t u) for two directions u with the norm of the leaves."""
    if kind not in STEPS:
        return "skipped", *NOTHING, f"finite differences of {kind} are too coarse."

    def random():
        return [jnp.asarray(draw(size=leaf.shape), leaf.dtype) for leaf in leaves]

    def norm(leaves):
        return sum(float((leaf * leaf).sum()) for leaf in leaves) ** 0.5

    rounding, tolerance, length = tolerance, max(tolerance, 1e-4 if kind == "float64" else 0.1), norm(leaves) or 1.0
    noise = 1e-3 * length / sum(leaf.size for leaf in leaves) ** 0.5
    start = [leaf + noise * abs(change) for leaf, change in zip(leaves, random(), strict=True)]
    modes = ("rev",) if "custom_vjp" in program else ("fwd", "rev")
    remark = "Reverse mode only: a custom_vjp leaves no forward mode; a custom_jvp would." if modes == ("rev",) else ""
    verdicts, gradient = set(), jax.grad(value)(start)
    steepest = norm(gradient) * length
    for direction in (gradient, [leaf * change for leaf, change in zip(start, random(), strict=True)]):
        unit = length / (norm(direction) or 1.0)

        def along(t, direction=direction, unit=unit):
            return value([leaf + (t * unit).astype(leaf.dtype) * change for leaf, change in zip(start, direction, strict=True)])

        verdicts.add(_differences(along, kind, tolerance, modes, rounding * steepest) if math.isfinite(steepest) else "FAILS")
    if "FAILS" in verdicts:
        return "FAILS", math.nan, tolerance, f"Usual cause: {DERIVATIVES} {remark}".strip()
    if "holds" in verdicts:
        return "holds", math.nan, tolerance, remark
    return "skipped", math.nan, tolerance, "the outputs hardly depend on the parameters; differences are lost in rounding."


def _differences(along: Callable, kind: str, tolerance: float, modes: tuple[str, ...], rounding: float) -> str:
    """Verdict on the derivatives of `along` at 0: equal in both modes up to `rounding`, and equal to finite differences at some step."""
    zero, verdict, epsilon = jnp.zeros((), kind), "skipped", np.finfo(kind).eps
    here, slope = float(along(zero)), float(jax.grad(along)(zero))
    if "fwd" in modes and not abs(jax.jvp(along, (zero,), (zero + 1,))[1] - slope) <= rounding:
        return "FAILS"
    for step in STEPS[kind]:
        central = (float(along(zero + step)) - float(along(zero - step))) / (2 * step)
        scale = max(abs(slope), abs(central))
        if scale > 0 and 8 * epsilon * abs(here) / step <= tolerance * scale:
            try:
                check_grads(lambda t, scale=scale: along(t) / scale, (zero,), 1, modes, atol=tolerance, rtol=0, eps=step)
                return "holds"
            except AssertionError:
                verdict = "FAILS"
    return verdict
