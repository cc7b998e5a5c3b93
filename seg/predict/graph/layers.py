"""Convolutions, products and pooling; rules as in `elements`."""

from typing import Any

import numpy as np

from seg.predict.graph import elements, values


def _convolve(graph, given, equation):
    (image, kernel), params = given, equation.params
    numbers = params["dimension_numbers"]
    if (
        not isinstance(kernel, np.ndarray)
        or (numbers.lhs_spec, numbers.out_spec) != (values.FIRST,) * 2
        or params["batch_group_count"] != 1
    ):
        raise values.refused("a convolution of this kind")
    kernel = kernel.transpose(numbers.rhs_spec).astype(np.float32)
    shape = elements.shape_of(equation)
    op = "Conv"
    how: dict[str, Any] = {
        "kernel_shape": kernel.shape[2:],
        "dilations": [*params["rhs_dilation"]],
    }
    if set(params["lhs_dilation"]) == {1}:
        how["pads"] = _pads(params["padding"])
        how["strides"] = [*params["window_strides"]]
        how["group"] = params["feature_group_count"]
    else:
        op = "ConvTranspose"
        how |= _transposed(kernel, params)
        kernel = kernel[:, :, ::-1, ::-1].swapaxes(0, 1)
    image = graph.name(graph.full(image))
    name = graph.emit(op, [image, graph.constant(kernel)], **how)
    return values.Tensor(name, shape, shape)


def _transposed(kernel: np.ndarray, params: Any) -> dict[str, Any]:
    """The attributes of a transposed convolution.

    JAX sees the image with zeros between its pixels, ONNX what each pixel is
    spread to: its padding is what is cut off from that.
    """
    reach = [
        (size - 1) * dilation
        for size, dilation in zip(
            kernel.shape[2:], params["rhs_dilation"], strict=True
        )
    ]
    cut = [
        (most - low, most - high)
        for most, (low, high) in zip(reach, params["padding"], strict=True)
    ]
    if (
        set(params["window_strides"]) != {1}
        or params["feature_group_count"] != 1
        or min(map(min, cut)) < 0
    ):
        raise values.refused("a transposed convolution of this kind")
    return {"strides": [*params["lhs_dilation"]], "pads": _pads(cut)}


def _pads(padding: Any) -> list[int]:
    (top, bottom), (left, right) = padding
    return [int(pad) for pad in (top, left, bottom, right)]


def _product(graph, given, equation):
    value, kernel = given
    contract, batch = equation.params["dimension_numbers"]
    plain = (
        isinstance(kernel, np.ndarray)
        and kernel.ndim == 2
        and (*map(tuple, batch),) == ((), ())
        and (*map(tuple, contract),) == ((len(value.shape) - 1,), (0,))
    )
    if not plain:
        raise values.refused("a product of this kind")
    kernel = kernel.astype(np.float32)
    shape = elements.shape_of(equation)
    value = graph.full(value)
    if len(shape) != 4:
        names = [value.name, graph.constant(kernel)]
        return values.Tensor(graph.emit("MatMul", names), shape, shape)
    weights = graph.constant(kernel.T[:, :, None, None])
    name = graph.emit("Conv", [value.name, weights], kernel_shape=[1, 1])
    return values.Tensor(name, shape, shape)


def _max_pool(graph, given, equation):
    params, shape = equation.params, elements.shape_of(equation)
    outer = [params["window_dimensions"][axis] for axis in (0, -1)]
    if (
        len(shape) != 4
        or outer != [1, 1]
        or set(params["base_dilation"]) != {1}
    ):
        raise values.refused("a maximum over windows of this kind")
    name = graph.emit(
        "MaxPool",
        [graph.full(given[0]).name],
        kernel_shape=[*params["window_dimensions"][1:3]],
        strides=[*params["window_strides"][1:3]],
        dilations=[*params["window_dilation"][1:3]],
        pads=_pads(params["padding"][1:3]),
    )
    return values.Tensor(name, shape, shape)


RULES: dict[str, elements.Rule] = {
    "conv_general_dilated": _convolve,
    "dot_general": _product,
    "reduce_window_max": _max_pool,
}
"""Primitive of JAX -> its rule."""
