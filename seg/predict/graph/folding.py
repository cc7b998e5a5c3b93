"""Factors and offsets by channel go into the weights of what is before them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Operation -> the axis of its weights that is the channels of its result.
_AXES = {"Conv": 0, "ConvTranspose": 1}


def fold(
    nodes: Sequence[Any], constants: Mapping[str, np.ndarray]
) -> tuple[list[Any], dict[str, np.ndarray]]:
    """The nodes that are left, and the constants that they use."""
    constants = dict(constants)
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    makers = {node.output[0]: node for node in nodes}
    kept = []
    for node in nodes:
        conv, constant = _behind(node, constants, makers, readers)
        if conv is None:
            kept.append(node)
            continue
        arrays = _folded(node.op_type, conv, constant, constants)
        names = [f"{node.output[0]}_{part}" for part in ("weights", "bias")]
        constants |= zip(names, arrays, strict=True)
        del conv.input[1:]
        conv.input.extend(names)
        conv.output[0] = node.output[0]
        makers[node.output[0]] = conv
    used = {name for node in kept for name in node.input}
    return kept, {
        name: array for name, array in constants.items() if name in used
    }


def _folded(
    op: str,
    conv: Any,
    constant: np.ndarray,
    constants: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a convolution, times or plus a constant."""
    weights = constants[conv.input[1]]
    axis = _AXES[conv.op_type]
    n = weights.shape[axis]
    bias = np.zeros(n, np.float32)
    if len(conv.input) > 2:
        bias = constants[conv.input[2]]
    by_channel = np.broadcast_to(constant.ravel(), n)
    if op == "Add":
        return weights, bias + by_channel
    shape = [1] * weights.ndim
    shape[axis] = n
    return weights * by_channel.reshape(shape), bias * by_channel


def _behind(
    node: Any,
    constants: Mapping[str, np.ndarray],
    makers: Mapping[str, Any],
    readers: Mapping[str, int],
) -> tuple[Any, np.ndarray | None]:
    """The convolution and the constant that a node can be folded into."""
    if node.op_type not in ("Mul", "Add"):
        return None, None
    for conv_name, name in (node.input, node.input[::-1]):
        conv, constant = makers.get(conv_name), constants.get(name)
        if (
            conv is not None
            and conv.op_type in _AXES
            and readers[conv_name] == 1
            and constant is not None
            and (constant.ndim == 0 or constant.shape[1:2] == (constant.size,))
        ):
            n = constants[conv.input[1]].shape[_AXES[conv.op_type]]
            if constant.size in (1, n):
                return conv, constant
    return None, None
