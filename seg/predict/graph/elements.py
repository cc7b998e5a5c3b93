"""Operations on elements.

A rule gets the graph, the values that go in, and the equation; it gives the
tensor that comes out, or a list of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seg.predict.graph import values

Rule = Callable[[values.Graph, list[values.Value], Any], Any]

_SAME = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh",
    "logistic": "Sigmoid", "sqrt": "Sqrt", "erf": "Erf", "abs": "Abs",
    "gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual",
    "le": "LessOrEqual", "eq": "Equal", "and": "And", "or": "Or",
    "not": "Not", "floor": "Floor", "sign": "Sign", "pow": "Pow",
    "stop_gradient": "Identity",
    "copy": "Identity", "copy_p": "Identity",
}  # fmt: skip


# --------------------------------------------------------------- elements
def elementwise(
    graph: values.Graph,
    op: str,
    given: Sequence[values.Value],
    shape: values.Shape,
) -> values.Tensor:
    """An operation on elements of scalars and of arrays of as many axes."""
    arrays = [values.stored(value) for value in given if value.shape]
    found = tuple(
        size if any(array[axis] != 1 for array in arrays) else 1
        for axis, size in enumerate(shape)
    )
    name = graph.emit(op, [graph.name(value) for value in given])
    return values.Tensor(name, shape, found)


def _same(op: str) -> Rule:
    return lambda graph, given, equation: elementwise(
        graph, op, given, shape_of(equation)
    )


def shape_of(equation: Any) -> values.Shape:
    """The shape of an equation's (first) result."""
    return tuple(equation.outvars[0].aval.shape)


def _composed(
    *steps: Callable[[values.Value], tuple[str, list[values.Value]]],
) -> Rule:
    """One operation on a value after another, each with its operands."""

    def rule(graph, given, equation):
        (value,) = given
        for step in steps:
            op, operands = step(value)
            value = elementwise(graph, op, operands, shape_of(equation))
        return value

    return rule


def _float(number: float) -> np.ndarray:
    return np.array(number, np.float32)


def _power(graph, given, equation):
    power = _float(equation.params["y"])
    return elementwise(graph, "Pow", [given[0], power], shape_of(equation))


def _select(graph, given, equation):
    which, off, on = given
    return elementwise(graph, "Where", [which, on, off], shape_of(equation))


def _clamp(graph, given, equation):
    low, value, high = given
    value = elementwise(graph, "Max", [value, low], shape_of(equation))
    return elementwise(graph, "Min", [value, high], shape_of(equation))


def _different(graph, given, equation):
    same = elementwise(graph, "Equal", given, shape_of(equation))
    return elementwise(graph, "Not", [same], shape_of(equation))


def _convert(graph, given, equation):
    (value,), to = given, equation.params["new_dtype"]
    if np.dtype(to) not in values.TYPES:
        raise values.UnsupportedError(
            f"numbers of type {to} have no place in the graph; export the "
            "model with model.dtype=float32"
        )
    name = graph.emit("Cast", [value.name], to=values.TYPES[np.dtype(to)])
    return dataclasses.replace(value, name=name)


def _size(graph, given, equation):
    name = graph.size(equation.params["dim"])
    name = graph.emit("Squeeze", [name, graph.integers(0)])
    to = values.TYPES[np.dtype(equation.outvars[0].aval.dtype)]
    return values.Tensor(graph.emit("Cast", [name], to=to), (), ())


RULES: dict[str, Rule] = {
    **{name: _same(op) for name, op in _SAME.items()},
    "square": _composed(lambda x: ("Mul", [x, x])),
    "rsqrt": _composed(lambda x: ("Sqrt", [x]), lambda x: ("Reciprocal", [x])),
    "erfc": _composed(
        lambda x: ("Erf", [x]), lambda x: ("Sub", [_float(1), x])
    ),
    "log1p": _composed(
        lambda x: ("Add", [x, _float(1)]), lambda x: ("Log", [x])
    ),
    "is_finite": _composed(
        lambda x: ("Abs", [x]), lambda x: ("Less", [x, _float(np.inf)])
    ),
    "integer_pow": _power,
    "ne": _different,
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "dim_as_value": _size,
}
"""Primitive of JAX -> its rule."""
