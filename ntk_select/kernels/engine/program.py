"""Functions as hashable lists of equations, without arrays. The only file that reads jaxprs (`jax.extend`).

A `Program` is the function's jaxpr with calls to jitted, checkpointed and closed functions inlined and short scans
unrolled, so that every use of a parameter is visible. Custom derivative rules stay opaque. Arrays that the function
closes over are passed at run time, so that functions with the same operations share one program and its compiled code,
whatever they capture.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cached_property, lru_cache, partial
from types import CellType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

# Primitive -> the name of its parameter that holds what is called.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
_CUSTOM_RULES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin")
_PLAIN = (ClosedJaxpr, Jaxpr, bool, int, str)
MAX_UNROLLED = 64  # iterations of a scan
_EMPTY_CELL = CellType()
MAX_BYTES = 2**16  # of an array inside an operation that is compared by its content
PROGRAMS = 64  # that stay compiled, the most recently used ones


class Eqn(NamedTuple):
    """One equation: outvars = run(*invars). Variables are numbers; `name` and `params` are those of the primitive."""

    name: str
    params: dict[str, Any]
    invars: tuple[int, ...]
    outvars: tuple[int, ...]
    run: Callable[..., list]


class Compiled:
    """Cache of the compiled functions of an object, with its lifetime."""

    def __init__(self):
        self._jitted = {}

    def jit(self, function: Callable, *static: Any, **options: Any) -> Callable:
        """`jax.jit(partial(function, self, *static), **options)`, the same one for the same arguments."""
        key = (function, static, tuple(sorted(options.items())))
        if key not in self._jitted:
            self._jitted[key] = jax.jit(partial(function, self, *static), **options)
        return self._jitted[key]


class Program(Compiled):
    """A flat jaxpr: equations in order, from `invars` to `outvars`. Programs with the same operations are equal.

    Attributes:
      eqns: the equations.
      invars, outvars: variables, by number.
      literals: variables whose values are scalars in the source.
      constvars: variables of the arrays that the function closes over.
      avals: variable -> shape and type.
      key: everything above as nested tuples; `repr(key)` is the same in every process.
      captured: how many constants the function itself closes over; the others belong to functions that it calls.
      shared: whether equal programs can be recognised; False where an operation holds a large array or an unknown function.
    """

    def __init__(self, closed: ClosedJaxpr):
        super().__init__()
        flattener = _Flattener()
        self._jaxpr, captured = _opened(closed)
        self.captured = len(captured)
        invars = [flattener.new(var) for var in self._jaxpr.invars[self.captured :]]
        constvars = [*map(flattener.constant, self._jaxpr.invars, captured)]
        outvars = flattener.inline(self._jaxpr, [*constvars, *invars])
        self.values = tuple(flattener.values)
        self.eqns, self.literals, self.avals = tuple(flattener.eqns), flattener.literals, flattener.avals
        self.invars, self.outvars, self.constvars = tuple(invars), tuple(outvars), tuple(flattener.constvars)
        self.key = (
            tuple(flattener.keys),
            self.invars,
            self.outvars,
            self.constvars,
            tuple((var, _array_key(value)) for var, value in self.literals.items()),
            tuple(flattener.types),
        )
        self.shared = flattener.shared
        self._hash = hash(self.key)

    @cached_property
    def original(self) -> Callable[..., list]:
        """The function as JAX traced it, of its constants and all inputs; only where no other function captures any."""
        return jaxpr_as_fun(ClosedJaxpr(self._jaxpr, ()))

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return self is other or (isinstance(other, Program) and self._hash == other._hash and self.key == other.key)


def trace(fn: Callable, *arguments: Any) -> tuple[Program, tuple]:
    """The program of fn and the arrays that it closes over.

    Args:
      fn: The function. Traced at every call, since what it captures may have changed; only once if it captures nothing, see `value_of`.
      arguments: pytrees of arrays or of their shapes; the program's inputs are their leaves in order.

    Returns:
      The program, the same object for functions with the same operations; and `values` for its constants.
    """
    if (value := value_of(fn)) is not None:
        traced = _by_value.trace(fn, value, *arguments).jaxpr
    else:
        traced = jax.make_jaxpr(lambda *arguments: fn(*arguments))(*arguments)
    program = Program(_without_unused(traced))
    values, program.values = program.values, ()
    return _interned(program) if program.shared else program, values


@partial(jax.jit, static_argnums=(0, 1))
def _by_value(fn, _value, *arguments):
    return fn(*arguments)


def value_of(fn: Any) -> tuple | None:
    """Types and values of everything that a function consists of, hashable; None if it captures what may change.

    Only frozen dataclasses and linen modules of such parts, names, numbers and types have one. Functions that compare equal may differ in it, as with fields
    that are not compared, or 1 and 1.0.
    """
    if is_dataclass(fn) and not isinstance(fn, type):
        names = [field.name for field in fields(fn)]
        frozen = type(fn).__dataclass_params__.frozen and getattr(fn, "__dict__", {}).keys() <= set(names)
        if not (frozen or _is_linen(fn)) or type(fn).__hash__ is None:
            return None
        return _value_of_all(type(fn), [getattr(fn, name) for name in names])
    if isinstance(fn, tuple):
        return _value_of_all(type(fn), fn)
    if isinstance(fn, type):
        return type, fn
    return (type(fn), repr(fn)) if fn is None or isinstance(fn, str | bytes | bool | int | float) else None


def _value_of_all(kind: type, parts) -> tuple | None:
    values = [value_of(part) for part in parts]
    return None if None in values else (kind, *values)


def _is_linen(fn) -> bool:
    return any((kind.__module__, kind.__name__) == ("flax.linen.module", "Module") for kind in type(fn).__mro__)


def _without_unused(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Dead-code elimination: equations and captured arrays that no output needs, such as the head of a network that returns pre-logits."""
    (jaxpr, values), live = _opened(closed), []
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            live.append(eqn)
            needed.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
    captured = [(var, value) for var, value in zip(jaxpr.invars, values, strict=False) if var in needed]
    inputs = {"constvars": [var for var, _ in captured], "invars": jaxpr.invars[len(values) :]}
    return ClosedJaxpr(jaxpr.replace(eqns=live[::-1], **inputs), [value for _, value in captured])


def _opened(jaxpr: ClosedJaxpr | Jaxpr) -> tuple[Jaxpr, tuple]:
    """A jaxpr without arrays, whose first inputs are its constants, and their values. In JAX 0.12 all jaxprs are of one class, which may have constants."""
    inner, values = getattr(jaxpr, "jaxpr", jaxpr), tuple(getattr(jaxpr, "consts", ()))
    return inner.replace(constvars=[], invars=[*inner.constvars, *inner.invars]) if inner.constvars else inner, values


@lru_cache(maxsize=PROGRAMS)
def _interned(program: Program) -> Program:
    return program


def evaluate(
    program: Program, values, inputs, *, interceptor: Callable[[int, Eqn, list], list] | None = None, only: frozenset[int] | None = None
) -> dict[int, Any]:
    """The environment after evaluation: the value of every variable.

    Args:
      program, values: Result of `trace`.
      inputs: leaves of the arguments.
      interceptor: interceptor(index, eqn, its inputs) -> outputs, called instead of `eqn.run`.
      only: indices of the equations to evaluate; all if None.
    """
    env = dict(program.literals)
    env |= dict(zip(program.constvars, values, strict=True)) | dict(zip(program.invars, inputs, strict=True))
    for index, eqn in enumerate(program.eqns):
        if only is not None and index not in only:
            continue
        arguments = [env[var] for var in eqn.invars]
        outputs = eqn.run(*arguments) if interceptor is None else interceptor(index, eqn, arguments)
        env |= dict(zip(eqn.outvars, outputs, strict=True))
    return env


def outputs_of(program: Program, values, inputs) -> list:
    """The outputs of the function, a list of leaves: by JAX's own evaluation of the original jaxpr, unless functions that it calls capture arrays.

    The original jaxpr has those of the first of all functions with the same operations.
    """
    if len(values) == program.captured:
        return program.original(*values, *inputs)
    env = evaluate(program, values, inputs)
    return [env[var] for var in program.outvars]


def calls_python(program: Program) -> bool:
    """Whether the function calls back to Python, of which nothing can be known."""
    return any("callback" in eqn.name for eqn in program.eqns) or "callback" in repr(program.key)


class _Flattener:
    """Flattens nested jaxprs into one list of equations over numbered variables."""

    def __init__(self):
        self.eqns, self.keys, self.literals, self.avals, self.types = [], [], {}, {}, []
        self.constvars, self.values, self.shared, self.in_rule = [], [], True, False

    def new(self, var) -> int:
        number, aval = len(self.avals), var.aval
        self.avals[number] = jax.ShapeDtypeStruct(aval.shape, aval.dtype) if hasattr(aval, "shape") else aval
        self.types.append((aval.shape, str(aval.dtype), getattr(aval, "weak_type", False)) if hasattr(aval, "shape") else str(aval))
        return number

    def constant(self, var, value) -> int:
        number = self.new(var)
        self.constvars.append(number)
        self.values.append(value)
        return number

    def inline(self, jaxpr: Jaxpr, inputs) -> list[int]:
        env = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom) -> int:
            if not isinstance(atom, Literal):
                return env[atom]
            if np.ndim(atom.val):
                return self.constant(atom, atom.val)
            number = self.new(atom)
            self.literals[number] = atom.val
            return number

        for eqn in jaxpr.eqns:
            arguments = [read(atom) for atom in eqn.invars]
            called = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
            if called is not None:
                results = self.call(called, arguments)
            elif eqn.primitive.name == "scan" and eqn.params["length"] <= MAX_UNROLLED:
                results = self.unroll(eqn, arguments)
            else:
                results = [self.new(var) for var in eqn.outvars]
                run = _Operation(eqn, jaxpr)
                self.add(eqn.primitive.name, eqn.params, arguments, results, run, self.operation_key(eqn, run))
            env |= dict(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def call(self, called, arguments) -> list[int]:
        inner, values = _opened(called)
        return self.inline(inner, [*map(self.constant, inner.invars, values), *arguments])

    def unroll(self, eqn, arguments) -> list[int]:
        params, length = eqn.params, eqn.params["length"]
        inner, captured = _opened(params["jaxpr"])
        # How the numbers of constants and states are given differs among versions of JAX; the axis of iterations tells what is stacked.
        slices = inner.invars[len(captured) :]
        carry = sum(np.ndim(var.aval) == np.ndim(result.aval) for var, result in zip(eqn.outvars, inner.outvars, strict=True))
        first = sum(np.ndim(atom.aval) == np.ndim(var.aval) for atom, var in zip(eqn.invars, slices, strict=True))
        shared, state, rows = arguments[: first - carry], arguments[first - carry : first], arguments[first:]
        order = range(length)[::-1] if params["reverse"] else range(length)
        stacks = [[None] * length for _ in eqn.outvars[carry:]]
        for index in order:
            parts = []
            for row, var in zip(rows, slices[first:], strict=True):
                parts.append(self.new(var))
                self.add("row", {"index": index}, [row], parts[-1:], partial(_row, index), index)
            results = self.call(params["jaxpr"], [*shared, *state, *parts])
            state = results[:carry]
            for stack, result in zip(stacks, results[carry:], strict=True):
                stack[index] = result
        for stack, var in zip(stacks, eqn.outvars[carry:], strict=True):
            state = [*state, self.new(var)]
            if length:
                self.add("stack", {}, stack, state[-1:], _stack, None)
            else:
                self.add("empty", {}, [], state[-1:], partial(_empty, var.aval.shape, var.aval.dtype), None)
        return state

    def add(self, name: str, params: dict, invars, outvars, run: Callable, key) -> None:
        self.eqns.append(Eqn(name, params, tuple(invars), tuple(outvars), run))
        self.keys.append((name, key, tuple(invars), tuple(outvars)))

    def operation_key(self, eqn, run: Callable):
        """An equation without its variables, in hashable form."""
        name, params = eqn.primitive.name, eqn.params
        if name in _CALLS:
            return self.key(params[_CALLS[name]])
        if name not in _CUSTOM_RULES:
            return tuple((name, self.key(value)) for name, value in params.items())
        plain = tuple((name, self.key(value)) for name, value in params.items() if isinstance(value, _PLAIN))
        if self.in_rule:  # the rule of a rule often calls itself; only first derivatives are compared
            return plain
        library = _library_code(list(params.values()))
        address = (library, plain, tuple(str(atom.aval) for atom in eqn.invars))
        if library is not None and address in _LIBRARY_RULES:
            return address
        self.in_rule = True
        try:
            rule = self.key(_derivative(eqn, run))
        except Exception:  # a rule that cannot be traced by itself: the operation equals no other
            return self.unknown(eqn)
        finally:
            self.in_rule = False
        if library is None:
            return plain, rule
        _LIBRARY_RULES.add(address)
        return address

    def unknown(self, value):
        self.shared = False
        return _Unknown(value)

    def key(self, value):
        """A hashable form of a parameter of an equation, equal for equal operations only."""
        if isinstance(value, ClosedJaxpr):
            inner, values = _opened(value)
            return ("closed", self.jaxpr_key(inner), tuple(map(self.key, values)))
        if isinstance(value, Jaxpr):
            return self.jaxpr_key(value)
        if isinstance(value, tuple | list):
            return type(value).__name__, tuple(map(self.key, value))
        if isinstance(value, dict):
            return tuple((name, self.key(part)) for name, part in value.items())
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, jax.core.Tracer):
            return self.unknown(value)
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return _array_key(value) if value.nbytes <= MAX_BYTES else self.unknown(value)
        if callable(value) and not isinstance(value, type):
            return self.unknown(value)
        try:
            hash(value)
        except TypeError:
            return self.unknown(value)
        return value

    def jaxpr_key(self, jaxpr: Jaxpr):
        """The equations of a nested jaxpr, variables by number."""
        numbers = {}

        def atom(value):
            if isinstance(value, Literal):
                return _array_key(value.val)
            return numbers.setdefault(value, len(numbers)), str(value.aval)

        inputs = tuple(map(atom, (*jaxpr.constvars, *jaxpr.invars)))
        eqns = []
        for eqn in jaxpr.eqns:
            key = self.operation_key(eqn, _Operation(eqn, jaxpr))
            eqns.append((eqn.primitive.name, key, tuple(map(atom, eqn.invars)), tuple(map(atom, eqn.outvars))))
        return inputs, tuple(eqns), tuple(map(atom, jaxpr.outvars))


class _Unknown:
    """A parameter of an equation that equals nothing but itself."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"unknown {type(self.value).__name__}"


def _array_key(value):
    if jnp.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return str(array.dtype), array.shape, array.tobytes()


class _Operation:
    """An equation of a jaxpr as a function of all its inputs; built lazily, since most programs are cached already."""

    def __init__(self, eqn, jaxpr: Jaxpr):
        self._eqn, self._jaxpr, self._call = eqn, jaxpr, None

    def __call__(self, *inputs) -> list:
        if self._call is None:
            eqn = self._eqn
            variables = list(dict.fromkeys(atom for atom in eqn.invars if not isinstance(atom, Literal)))
            self._where = [next(index for index, atom in enumerate(eqn.invars) if atom is variable) for variable in variables]
            alone = self._jaxpr.replace(constvars=[], invars=variables, outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
            self._call, self._jaxpr = jaxpr_as_fun(ClosedJaxpr(alone, ())), None
        return self._call(*(inputs[index] for index in self._where))


def _derivative(eqn, run: Callable) -> ClosedJaxpr:
    """The jaxpr of an operation with a custom derivative rule together with that derivative: JVP, or VJP if there is no JVP."""
    shapes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
    real = [index for index, shape in enumerate(shapes) if jnp.issubdtype(shape.dtype, jnp.inexact)]

    def both(inputs, change):
        def of_real(moved):
            merged = list(inputs)
            for index, value in zip(real, moved, strict=True):
                merged[index] = value
            return [output for output in run(*merged) if jnp.issubdtype(output.dtype, jnp.inexact)]

        moved = [inputs[index] for index in real]
        if eqn.primitive.name == "custom_jvp_call":
            return jax.jvp(of_real, (moved,), (change,))
        outputs, pull = jax.vjp(of_real, moved)
        return outputs, pull(outputs)

    return jax.make_jaxpr(both)(shapes, [shapes[index] for index in real])


_LIBRARY_RULES: set = set()


def _library_code(value) -> frozenset | None:
    """All code that a derivative rule can reach, if all of it is JAX's own, so that equal code is an equal rule; otherwise None.

    It saves tracing the derivative of every `relu` again.
    """
    code, seen, todo = [], set(), [value]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, tuple | list):
            todo += one
        elif isinstance(one, dict):
            todo += one.items()
        elif isinstance(one, str | int | float | None) or type(one) is object:
            code.append(one if isinstance(one, str) else repr(one) if type(one) is not object else "")
        elif isinstance(one, jax.Array | jax.core.Tracer) or not str(getattr(one, "__module__", type(one).__module__)).startswith(
            ("jax.", "jaxlib.")
        ):
            return None
        elif hasattr(one, "call_wrapped"):
            todo += [one.f, one.transforms, one.params]
        elif hasattr(one, "__code__"):
            code.append(one.__code__)
            todo += [cell.cell_contents for cell in one.__closure__ or () if cell != _EMPTY_CELL] + list(one.__defaults__ or ())
    return _LibraryCode(code)


class _LibraryCode(frozenset):
    """Code objects and words; the text of them is the same in every process."""

    def __repr__(self):
        return str(sorted(one if isinstance(one, str) else f"{one.co_qualname}:{one.co_firstlineno}" for one in self))


def _row(index: int, stacked) -> list:
    return [stacked[index]]


def _stack(*rows) -> list:
    return [jnp.stack(rows)]


def _empty(shape, dtype) -> list:
    return [jnp.zeros(shape, dtype)]
