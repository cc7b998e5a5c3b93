"""Operations that move, join, cut or sum axes; rules as in `elements`."""

from collections.abc import Sequence

import numpy as np

from seg.predict.graph import elements, values

_TO_THE_END = 2**31 - 1


def _reduce(op: str) -> elements.Rule:
    def rule(graph, given, equation):
        value, axes = given[0], equation.params["axes"]
        if any(value.stored[axis] != value.shape[axis] for axis in axes):
            value = graph.full(value)
        n = len(value.shape)
        kept = tuple(axis for axis in range(n) if axis not in axes)
        name, shape = value.name, elements.shape_of(equation)
        if kept == tuple(sorted(kept, key=lambda axis: values.place(axis, n))):
            axes = [values.place(axis, n) for axis in axes]
        else:
            value = graph.full(value)
            name = graph.plain(value)
        found = tuple(value.stored[axis] for axis in kept)
        if op == "ReduceSum":  # its axes are an input since opset 13
            name = graph.emit(op, [name, graph.integers(*axes)], keepdims=0)
        else:
            name = graph.emit(op, [name], axes=[*axes], keepdims=0)
        if len(shape) == 4:
            name = graph.emit("Transpose", [name], perm=values.FIRST)
        return values.Tensor(name, shape, found)

    return rule


def _broadcast(graph, given, equation):
    (value,), shape = given, elements.shape_of(equation)
    at = equation.params["broadcast_dimensions"]
    if isinstance(value, np.ndarray):
        thin = [1] * len(shape)
        for axis, size in zip(at, value.shape, strict=True):
            thin[axis] = size
        name = graph.name(value.reshape(thin))
        return values.Tensor(name, shape, tuple(thin))
    return _with_axes(graph, value, at, shape)


def _with_axes(graph, value, at, shape):
    """The value with its axes at these places of a shape."""
    n = len(shape)
    thin = [1] * n
    for axis, size in zip(at, value.stored, strict=True):
        thin[axis] = size
    new = [axis for axis in range(n) if axis not in at]
    name = graph.in_order(value) if new else value.name
    if new and [*at] == sorted(at, key=lambda axis: values.place(axis, n)):
        axes = sorted(values.place(axis, n) for axis in new)
        name = graph.emit("Unsqueeze", [name, graph.integers(*axes)])
    elif new:
        name = graph.emit("Unsqueeze", [name, graph.integers(*new)])
        name = graph.emit("Transpose", [name], perm=values.FIRST)
    return values.Tensor(name, shape, tuple(thin))


def _expand(graph, given, equation):
    shape, new = elements.shape_of(equation), equation.params["dimensions"]
    at = [axis for axis in range(len(shape)) if axis not in new]
    return _with_axes(graph, given[0], at, shape)


def _reshape(graph, given, equation):
    (value,), shape = given, elements.shape_of(equation)
    at = [axis for axis, size in enumerate(shape) if size != 1]
    if tuple(shape[axis] for axis in at) == value.shape:
        return _with_axes(graph, value, at, shape)
    sizes = [
        0 if axis < len(value.shape) and size == value.shape[axis] else size
        for axis, size in enumerate(shape)
    ]
    open_sizes = [size for size in sizes if not isinstance(size, int)]
    if len(open_sizes) == 1:
        sizes[sizes.index(open_sizes[0])] = -1
    to = graph.sizes(sizes)
    return graph.store(graph.emit("Reshape", [graph.plain(value), to]), shape)


def _transpose(graph, given, equation):
    name = graph.plain(given[0])
    order = equation.params["permutation"]
    name = graph.emit("Transpose", [name], perm=[*order])
    return graph.store(name, elements.shape_of(equation))


def _concatenate(graph, given, equation):
    return _joined(graph, given, equation.params["dimension"], equation)


def _stack(graph, given, equation):
    shape, new = elements.shape_of(equation), equation.params["axis"]
    at = [axis for axis in range(len(shape)) if axis != new]
    whole = tuple(1 if axis == new else n for axis, n in enumerate(shape))
    given = [
        value.reshape(whole)
        if isinstance(value, np.ndarray)
        else _with_axes(graph, value, at, whole)
        for value in given
    ]
    return _joined(graph, given, new, equation)


def _joined(graph, given, axis, equation):
    shape = elements.shape_of(equation)
    axis = values.place(axis, len(shape))
    names = [graph.name(graph.full(value)) for value in given]
    name = graph.emit("Concat", names, axis=axis)
    return values.Tensor(name, shape, shape)


def _split(graph, given, equation):
    value = graph.full(given[0])
    axis = values.place(equation.params["axis"], len(value.shape))
    names = graph.split(value.name, equation.params["sizes"], axis)
    shapes = [tuple(out.aval.shape) for out in equation.outvars]
    return [
        values.Tensor(name, shape, shape)
        for name, shape in zip(names, shapes, strict=True)
    ]


def cut(
    graph: values.Graph,
    value: values.Tensor,
    starts: Sequence[int],
    limits: Sequence[values.Size],
    steps: Sequence[int],
    shape: values.Shape,
) -> values.Tensor:
    """A part of each axis; ends are counted from the end of the axis.

    Raises UnsupportedError where they depend on the image.
    """
    ranges: dict[int, tuple[int, int, int]] = {}
    for axis, size in enumerate(value.shape):
        end = values.difference(limits[axis], size)
        if isinstance(limits[axis], int):
            end = limits[axis]
        if limits[axis] == size:
            end = _TO_THE_END
        if end is None:
            raise values.refused(f"a slice up to {limits[axis]} of {size}")
        if (starts[axis], end, steps[axis]) != (0, _TO_THE_END, 1):
            ranges[values.place(axis, len(value.shape))] = (
                starts[axis], end, steps[axis],
            )  # fmt: skip
    if not ranges:
        return value
    columns = [*zip(*ranges.values(), strict=True)]
    columns.insert(2, tuple(ranges))
    inputs = [graph.full(value).name, *(graph.integers(*c) for c in columns)]
    return values.Tensor(graph.emit("Slice", inputs), shape, shape)


def _slice(graph, given, equation):
    params, shape = equation.params, elements.shape_of(equation)
    steps = params["strides"] or (1,) * len(shape)
    starts, limits = params["start_indices"], params["limit_indices"]
    return cut(graph, given[0], starts, limits, steps, shape)


def _gather(graph, given, equation):
    """A slice at a constant place, which is what indexing becomes."""
    value, index = given
    numbers = equation.params["dimension_numbers"]
    if not isinstance(index, np.ndarray) or index.ndim != 1:
        raise values.refused("an index by an array")
    starts = [0] * len(value.shape)
    for axis, start in zip(numbers.start_index_map, index, strict=True):
        starts[axis] = int(start)
    sizes = tuple(equation.params["slice_sizes"])
    limits = [a + b for a, b in zip(starts, sizes, strict=True)]
    value = cut(graph, value, starts, limits, [1] * len(sizes), sizes)
    return _without(graph, value, numbers.collapsed_slice_dims, equation)


def _without(graph, value, axes, equation):
    """The value without some axes of one element."""
    shape = elements.shape_of(equation)
    if not axes:
        return value
    axes = graph.integers(*axes)
    name = graph.emit("Squeeze", [graph.plain(value), axes])
    return graph.store(name, shape)


def _squeeze(graph, given, equation):
    return _without(graph, given[0], equation.params["dimensions"], equation)


def _pad(graph, given, equation):
    value, fill = graph.full(given[0]), given[1]
    config = equation.params["padding_config"]
    if any(inner or min(low, high) < 0 for low, high, inner in config):
        raise values.refused("padding between elements")
    n = len(config)
    order = values.FIRST if n == 4 else range(n)
    pads = [int(config[axis][end]) for end in (0, 1) for axis in order]
    inputs = [value.name, graph.integers(*pads), graph.name(fill)]
    shape = elements.shape_of(equation)
    return values.Tensor(graph.emit("Pad", inputs), shape, shape)


RULES: dict[str, elements.Rule] = {
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "slice": _slice,
    "gather": _gather,
    "squeeze": _squeeze,
    "expand_dims": _expand,
    "pad": _pad,
}
"""Primitive of JAX -> its rule."""
