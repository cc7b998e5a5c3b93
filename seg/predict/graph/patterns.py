"""Several operations that ONNX has as one, as `seg.models` writes them.

a maximum or a sum over f x f windows    MaxPool, AveragePool
blocks of f x f pixels to channels       SpaceToDepth
and back                                 DepthToSpace
each pixel f x f times                   Resize, nearest
jax.image.resize, bilinear, f times      Resize, linear
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from seg.predict.graph import elements, values

_BLOCKS = (0, 1, 3, 2, 4, 5)  # rows and columns of blocks, then inside them

Found = tuple[int, list[values.Tensor]]


def find(
    graph: values.Graph, jaxpr: Any, at: int, given: Sequence[values.Value]
) -> Found | None:
    """What the equations from `at` on are together: how many, and the result.

    None where they are none of these.
    """
    if not given or not isinstance(given[0], values.Tensor):
        return None
    value = given[0]
    if len(value.shape) != 4:
        return None
    for names, how in _PATTERNS:
        equations = jaxpr.eqns[at : at + len(names)]
        if not _follow(jaxpr, equations, names):
            continue
        if found := how(graph, value, equations):
            shape = elements.shape_of(equations[-1])
            return len(names), [values.Tensor(found, shape, shape)]
    return None


def _follow(jaxpr: Any, equations: Sequence[Any], names: Sequence[str]) -> bool:
    """Whether these are the operations, each seen by the next one alone."""
    if [_name(equation) for equation in equations] != [*names]:
        return False
    inner = [equation.outvars[0] for equation in equations[:-1]]
    readers = [
        atom
        for atoms in (*(e.invars for e in jaxpr.eqns), jaxpr.outvars)
        for atom in atoms
    ]
    return all(
        equation.invars[0] is made
        and sum(atom is made for atom in readers) == 1
        for made, equation in zip(inner, equations[1:], strict=True)
    )


def _name(equation: Any) -> str:
    name = equation.primitive.name
    return equation.params["name"] if name in ("jit", "pjit") else name


def _factor(shape: values.Shape, split: values.Shape) -> int | None:
    """f where a shape was split in windows of f x f pixels."""
    b, h, w, c = shape
    f = split[2] if len(split) == 6 else None
    if not isinstance(f, int) or f < 2:
        return None
    return f if split == (b, h // f, f, w // f, f, c) else None


def _over_windows(graph, value, equations):
    split, reduction = equations
    f = _factor(value.shape, elements.shape_of(split))
    if not f or reduction.params["axes"] != (2, 4):
        return None
    name = graph.name(graph.full(value))
    windows = {"kernel_shape": [f, f], "strides": [f, f]}
    if reduction.primitive.name == "reduce_max":
        return graph.emit("MaxPool", [name], **windows)
    name = graph.emit("AveragePool", [name], **windows)
    n = graph.constant(np.array(f * f, np.float32))
    return graph.emit("Mul", [name, n])


def _rearranged(graph, value, equations):
    split, turned = (elements.shape_of(equation) for equation in equations[::2])
    if equations[1].params["permutation"] != _BLOCKS:
        return None
    name = graph.name(graph.full(value))
    b, h, w, c = value.shape
    f = _factor(value.shape, split)
    if f and turned == (b, h // f, w // f, f * f * c):
        return graph.emit("SpaceToDepth", [name], blocksize=f)
    f = split[3] if len(split) == 6 else None
    if split == (b, h, w, f, f, turned[3]) and _factor(
        turned, (b, h, f, w, f, turned[3])
    ):
        return graph.emit("DepthToSpace", [name], blocksize=f, mode="DCR")
    return None


def _repeated(graph, value, equations):
    b, h, w, c = value.shape
    found = [elements.shape_of(equation) for equation in equations]
    f = found[0][2]
    if not isinstance(f, int):
        return None
    tall, large = (b, h * f, w, c), (b, h * f, w * f, c)
    if found != [(b, h, f, w, c), tall, (b, h * f, w, f, c), large]:
        return None
    where = {"coordinate_transformation_mode": "asymmetric"}
    how = {"mode": "nearest", "nearest_mode": "floor", **where}
    return _resize(graph, value, f, **how)


def _bilinear(graph, value, equations):
    (equation,) = equations
    shape, (_, h, w, _) = elements.shape_of(equation), value.shape
    f = shape[1] // h
    if not isinstance(f, int) or shape[1:3] != (f * h, f * w):
        return None
    # The program by its text: the operation does not say its method.
    wanted = jax.make_jaxpr(lambda x: jax.image.resize(x, shape, "bilinear"))(
        equation.invars[0].aval
    )
    if str(wanted.eqns[-1].params["jaxpr"]) != str(equation.params["jaxpr"]):
        return None
    return _resize(
        graph, value, f, mode="linear",
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip


def _resize(graph, value, f: int, **how: str) -> str:
    scales = graph.constant(np.array((1, 1, f, f), np.float32))
    name = graph.name(graph.full(value))
    return graph.emit("Resize", [name, "", scales], **how)


_REPEAT = ("broadcast_in_dim", "reshape")
_PATTERNS = (
    (("reshape", "reduce_max"), _over_windows),
    (("reshape", "reduce_sum"), _over_windows),
    (("reshape", "transpose", "reshape"), _rearranged),
    (_REPEAT * 2, _repeated),
    (("_resize",), _bilinear),
)
