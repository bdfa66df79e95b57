"""What steps does a function take? The only file that reads JAX's intermediate form (`jax.extend`).

A `Program` is the function's jaxpr with calls to jitted, checkpointed and closed functions written out, so that
every use of a parameter can be seen. Custom derivative rules stay whole: they are part of what the user asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

# Primitive -> the name of its parameter that holds what is called.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}


class Step(NamedTuple):
    """One operation: outputs = take(*inputs). `inputs` and `outputs` are numbers of slots, `settings` as JAX prints them."""

    name: str
    settings: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    take: Callable[..., list]


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order, from the slots `inputs` to the slots `outputs`.

    Attributes:
      literals: slots whose values are numbers in the source.
      constants: slots of the arrays that the function closes over; `values` are those arrays, in the same order.
      shapes: slot -> shape and type.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    literals: dict[int, Any]
    constants: tuple[int, ...]
    values: tuple[Any, ...]
    shapes: dict[int, jax.ShapeDtypeStruct]


def trace(fn: Callable, *arguments) -> Program:
    """The program of fn; `arguments` are flat lists or arrays, or their shapes."""
    closed = jax.make_jaxpr(fn)(*arguments)
    writer = _Writer()
    inputs = [writer.new(var) for var in closed.jaxpr.invars]
    constants = [writer.new(var) for var in closed.jaxpr.constvars]
    outputs = writer.inline(closed.jaxpr, constants, inputs)
    return Program(
        tuple(writer.steps),
        tuple(inputs),
        tuple(outputs),
        writer.literals,
        (*constants, *writer.constants),
        (*closed.consts, *writer.values),
        writer.shapes,
    )


class _Writer:
    def __init__(self):
        self.steps, self.literals, self.shapes, self.constants, self.values = [], {}, {}, [], []

    def new(self, var) -> int:
        slot = len(self.shapes)
        self.shapes[slot] = jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) if hasattr(var.aval, "shape") else var.aval
        return slot

    def inline(self, jaxpr: Jaxpr, constants, inputs) -> list[int]:
        slots = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def read(atom) -> int:
            if not isinstance(atom, Literal):
                return slots[atom]
            slot = self.new(atom)
            self.literals[slot] = atom.val
            return slot

        for eqn in jaxpr.eqns:
            arguments = [read(atom) for atom in eqn.invars]
            called = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
            if called is None:
                results = [self.new(var) for var in eqn.outvars]
                self.steps.append(Step(eqn.primitive.name, eqn.params, tuple(arguments), tuple(results), _single(eqn, jaxpr)))
            else:
                inner, values = (called.jaxpr, called.consts) if isinstance(called, ClosedJaxpr) else (called, ())
                held = [self.new(var) for var in inner.constvars]
                self.constants += held
                self.values += values
                results = self.inline(inner, held, arguments)
            slots |= dict(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def run(
    program: Program, values, arguments, around: Callable[[int, Callable, list], list] | None = None, only: frozenset[int] | None = None
) -> dict[int, Any]:
    """Takes the steps. Returns the value of every slot.

    Args:
      program: from `trace`.
      values: for `program.constants`.
      arguments: for `program.inputs`.
      around: around(index of the step, step as a callable of its inputs, inputs) -> outputs, to watch or change a step.
      only: take these steps only.
    """
    slots = dict(program.literals)
    slots |= dict(zip(program.constants, values, strict=True)) | dict(zip(program.inputs, arguments, strict=True))
    for index, step in enumerate(program.steps):
        if only is not None and index not in only:
            continue
        inputs = [slots[slot] for slot in step.inputs]
        outputs = step.take(*inputs) if around is None else around(index, step, inputs)
        slots |= dict(zip(step.outputs, outputs, strict=True))
    return slots


def _single(eqn, jaxpr: Jaxpr) -> Callable[..., list]:
    """The operation as a function of all its inputs."""
    variables = list(dict.fromkeys(atom for atom in eqn.invars if not isinstance(atom, Literal)))
    where = [next(index for index, atom in enumerate(eqn.invars) if atom is variable) for variable in variables]
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
    call = jaxpr_as_fun(ClosedJaxpr(alone, ()))
    return lambda *inputs: call(*(inputs[index] for index in where))
