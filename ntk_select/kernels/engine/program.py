"""Functions as hashable steps without arrays. The only file that reads JAX's intermediate form (`jax.extend`).

A `Program` is the function's jaxpr with calls to jitted, checkpointed and closed functions written out and short scans
unrolled, so that every use of a parameter can be seen. Custom derivative rules stay whole: they are part of what the
user asked for. Arrays that the function closes over are handed in at run time, so that functions with the same
operations share one program and what was compiled for it, whatever they capture.
"""

from collections.abc import Callable
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
MOST_UNROLLED = 64  # iterations of a scan
_EMPTY_CELL = CellType()
MOST_BYTES = 2**16  # of an array inside an operation that is compared by its content
PROGRAMS = 64  # that stay compiled, the most recently used ones


class Step(NamedTuple):
    """One operation: outputs = run(*inputs). `inputs` and `outputs` are numbers of slots, `settings` as JAX prints them."""

    name: str
    settings: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Callable[..., list]


class Compiled:
    """Compiled functions of an object, kept as long as the object is."""

    def __init__(self):
        self._jitted = {}

    def jit(self, function: Callable, *static: Any, **options: Any) -> Callable:
        """`jax.jit(partial(function, self, *static), **options)`, the same one for the same arguments."""
        key = (function, static, tuple(sorted(options.items())))
        if key not in self._jitted:
            self._jitted[key] = jax.jit(partial(function, self, *static), **options)
        return self._jitted[key]


class Program(Compiled):
    """Steps in order, from the slots `inputs` to the slots `outputs`. Programs with the same operations are equal.

    Attributes:
      steps: the operations.
      inputs, outputs: slots.
      literals: slots whose values are numbers in the source.
      constants: slots of the arrays that the function closes over.
      shapes: slot -> shape and type.
      key: everything above as nested tuples; `repr(key)` is the same in every process.
      captured: how many constants the function itself closes over; the others belong to functions that it calls.
      shared: whether equal programs can be told; False where an operation holds a large array or an unknown function.
    """

    def __init__(self, closed: ClosedJaxpr):
        super().__init__()
        writer, jaxpr = _Writer(), closed.jaxpr
        inputs = [writer.new(var) for var in jaxpr.invars]
        constants = [writer.constant(var, value) for var, value in zip(jaxpr.constvars, closed.consts, strict=True)]
        outputs = writer.inline(jaxpr, constants, inputs)
        self.captured = len(constants)
        self._jaxpr = jaxpr
        self.values = tuple(writer.values)
        self.steps, self.literals, self.shapes = tuple(writer.steps), writer.literals, writer.shapes
        self.inputs, self.outputs, self.constants = tuple(inputs), tuple(outputs), tuple(writer.constants)
        self.key = (
            tuple(writer.keys),
            self.inputs,
            self.outputs,
            self.constants,
            tuple((slot, _array_key(value)) for slot, value in self.literals.items()),
            tuple(writer.avals),
        )
        self.shared = writer.shared
        self._hash = hash(self.key)

    @cached_property
    def original(self) -> Callable[..., list]:
        """The function as JAX traced it, of the `captured` first constants and all inputs."""
        jaxpr = self._jaxpr
        return jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars]), ()))

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return self is other or (isinstance(other, Program) and self._hash == other._hash and self.key == other.key)


def trace(fn: Callable, *arguments: Any) -> tuple[Program, tuple]:
    """The program of fn and the arrays that it closes over.

    Args:
      fn: traced anew at every call, so that what it captures is what it holds now.
      arguments: pytrees of arrays or of their shapes; the program's inputs are their leaves in order.

    Returns:
      The program, the same object for functions with the same operations; and `values` for its constants.
    """
    program = Program(_without_unused(jax.make_jaxpr(lambda *arguments: fn(*arguments))(*arguments)))
    values, program.values = program.values, ()
    return _interned(program) if program.shared else program, values


def _without_unused(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Without operations and captured arrays that no output needs, such as the old head of a network whose pre-logits are asked for."""
    jaxpr, kept = closed.jaxpr, []
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            kept.append(eqn)
            needed.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
    captured = [(var, value) for var, value in zip(jaxpr.constvars, closed.consts, strict=True) if var in needed]
    return ClosedJaxpr(jaxpr.replace(eqns=kept[::-1], constvars=[var for var, _ in captured]), [value for _, value in captured])


@lru_cache(maxsize=PROGRAMS)
def _interned(program: Program) -> Program:
    return program


def evaluate(
    program: Program, values, inputs, *, intercept: Callable[[int, Step, list], list] | None = None, only: frozenset[int] | None = None
) -> dict[int, Any]:
    """The value of every slot.

    Args:
      program, values: from `trace`.
      inputs: leaves of the arguments.
      intercept: intercept(number of the step, step, its inputs) -> outputs, to watch or change a step.
      only: run these steps only.
    """
    slots = dict(program.literals)
    slots |= dict(zip(program.constants, values, strict=True)) | dict(zip(program.inputs, inputs, strict=True))
    for number, step in enumerate(program.steps):
        if only is not None and number not in only:
            continue
        arguments = [slots[slot] for slot in step.inputs]
        outputs = step.run(*arguments) if intercept is None else intercept(number, step, arguments)
        slots |= dict(zip(step.outputs, outputs, strict=True))
    return slots


def outputs_of(program: Program, values, inputs) -> list:
    """The outputs of the function, a list of leaves; by JAX's own evaluation, without anything written out."""
    return program.original(*values[: program.captured], *inputs)


def calls_python(program: Program) -> bool:
    """Whether the function calls back to Python, of which nothing can be known."""
    return any("callback" in step.name for step in program.steps) or "callback" in repr(program.key)


class _Writer:
    """Writes jaxprs out as steps."""

    def __init__(self):
        self.steps, self.keys, self.literals, self.shapes, self.avals = [], [], {}, {}, []
        self.constants, self.values, self.shared, self.in_rule = [], [], True, False

    def new(self, var) -> int:
        slot, aval = len(self.shapes), var.aval
        self.shapes[slot] = jax.ShapeDtypeStruct(aval.shape, aval.dtype) if hasattr(aval, "shape") else aval
        self.avals.append((aval.shape, str(aval.dtype), getattr(aval, "weak_type", False)) if hasattr(aval, "shape") else str(aval))
        return slot

    def constant(self, var, value) -> int:
        slot = self.new(var)
        self.constants.append(slot)
        self.values.append(value)
        return slot

    def inline(self, jaxpr: Jaxpr, constants, inputs) -> list[int]:
        slots = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def read(atom) -> int:
            if not isinstance(atom, Literal):
                return slots[atom]
            if np.ndim(atom.val):
                return self.constant(atom, atom.val)
            slot = self.new(atom)
            self.literals[slot] = atom.val
            return slot

        for eqn in jaxpr.eqns:
            arguments = [read(atom) for atom in eqn.invars]
            called = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
            if called is not None:
                results = self.call(called, arguments)
            elif eqn.primitive.name == "scan" and eqn.params["length"] <= MOST_UNROLLED:
                results = self.unroll(eqn, arguments)
            else:
                results = [self.new(var) for var in eqn.outvars]
                run = _Operation(eqn, jaxpr)
                self.add(eqn.primitive.name, eqn.params, arguments, results, run, self.operation_key(eqn, run))
            slots |= dict(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def call(self, called, arguments) -> list[int]:
        inner, values = (called.jaxpr, called.consts) if isinstance(called, ClosedJaxpr) else (called, ())
        return self.inline(inner, [self.constant(var, value) for var, value in zip(inner.constvars, values, strict=True)], arguments)

    def unroll(self, eqn, arguments) -> list[int]:
        settings = eqn.params
        length, consts, carry = settings["length"], settings["num_consts"], settings["num_carry"]
        shared, state, rows = arguments[:consts], arguments[consts : consts + carry], arguments[consts + carry :]
        inner = settings["jaxpr"].jaxpr
        order = range(length)[::-1] if settings["reverse"] else range(length)
        stacks = [[None] * length for _ in eqn.outvars[carry:]]
        for index in order:
            parts = []
            for row, var in zip(rows, inner.invars[consts + carry :], strict=True):
                parts.append(self.new(var))
                self.add("row", {"index": index}, [row], parts[-1:], partial(_row, index), index)
            results = self.call(settings["jaxpr"], [*shared, *state, *parts])
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

    def add(self, name: str, settings: dict, inputs, outputs, run: Callable, key) -> None:
        self.steps.append(Step(name, settings, tuple(inputs), tuple(outputs), run))
        self.keys.append((name, key, tuple(inputs), tuple(outputs)))

    def operation_key(self, eqn, run: Callable):
        """Everything that an operation is, in hashable form."""
        name, settings = eqn.primitive.name, eqn.params
        if name in _CALLS:
            return self.key(settings[_CALLS[name]])
        if name not in _CUSTOM_RULES:
            return tuple((name, self.key(value)) for name, value in settings.items())
        plain = tuple((name, self.key(value)) for name, value in settings.items() if isinstance(value, _PLAIN))
        if self.in_rule:  # the rule of a rule often calls itself; only first derivatives are told apart
            return plain
        library = _library_code(list(settings.values()))
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
        """A hashable form of a parameter of an operation, equal for equal operations only."""
        if isinstance(value, ClosedJaxpr):
            return ("closed", self.key(value.jaxpr), tuple(map(self.key, value.consts)))
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
            return _array_key(value) if value.nbytes <= MOST_BYTES else self.unknown(value)
        if callable(value) and not isinstance(value, type):
            return self.unknown(value)
        try:
            hash(value)
        except TypeError:
            return self.unknown(value)
        return value

    def jaxpr_key(self, jaxpr: Jaxpr):
        """The operations of a jaxpr inside an operation, variables by number."""
        numbers = {}

        def atom(value):
            if isinstance(value, Literal):
                return _array_key(value.val)
            return numbers.setdefault(value, len(numbers)), str(value.aval)

        inputs = tuple(map(atom, (*jaxpr.constvars, *jaxpr.invars)))
        steps = []
        for eqn in jaxpr.eqns:
            key = self.operation_key(eqn, _Operation(eqn, jaxpr))
            steps.append((eqn.primitive.name, key, tuple(map(atom, eqn.invars)), tuple(map(atom, eqn.outvars))))
        return inputs, tuple(steps), tuple(map(atom, jaxpr.outvars))


class _Unknown:
    """A part of an operation that equals nothing but itself."""

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
    """An equation of a jaxpr as a function of all its inputs; made when it is first called, for most programs are known already."""

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
    """An operation with a derivative rule of its own, followed by that derivative: forward mode, or reverse mode where there is no other."""
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
    """All code that a derivative rule can reach, where it is JAX's own: then it is the same rule whenever the code is. None elsewhere.

    It spares tracing the derivative of every `relu` again. Where JAX keeps its rules in another way, None comes out.
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
