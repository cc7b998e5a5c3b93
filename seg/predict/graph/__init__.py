"""A JAX function as an ONNX graph, channels first, constants folded.

Convolution engines for CPUs want [B, C, H, W]; the networks of seg are written
[B, H, W, C]. A graph that is converted as it stands changes the layout at
every convolution, which costs them half their speed. So the jaxpr is read once
and each value with four axes is kept channels first; what depends on weights
alone is computed here, and a factor and an offset by channel behind a
convolution (BatchNorm in use) go into its weights. Input and output keep the
layout of JAX.

Batch, H and W are symbols of `jax.export.symbolic_shape`, so nothing in the
graph knows the size of an image, and what is asked about it is worked out from
the input. Whatever has no rule is refused by name.

    values      what a graph is made of; layouts; sizes that are not known yet
    walk        a jaxpr, equation by equation
    elements    operations on elements
    axes        operations that move, join, cut or sum axes
    layers      convolutions, products, pooling
    patterns    several operations that ONNX has as one
    folding     factors and offsets into the weights before them
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from seg.predict.graph import folding, values, walk
from seg.predict.graph.values import UnsupportedError

__all__ = ["OPSET", "UnsupportedError", "convert"]

OPSET = 17


def convert(
    function: Callable[..., jax.Array],
    examples: Sequence[jax.ShapeDtypeStruct],
    names: Sequence[str],
    result: str,
) -> Any:
    """The ONNX model of a function of arrays.

    Parameters
    ----------
    function : pure; its closed-over arrays become constants.
    examples : shape and dtype of each argument. Sizes that stay free are
        symbols, or symbols times a number.
    names : of the arguments in the graph.
    result : name of the result.

    Returns
    -------
    onnx.ModelProto. Axis 0 of arguments and result is called "B" where it is
    free, axes 1 and 2 "H" and "W".

    Raises
    ------
    UnsupportedError
        naming the first operation without a rule.
    """
    closed = jax.make_jaxpr(function)(*examples)
    graph = values.Graph(names, examples)
    inputs = [
        graph.store(name, tuple(example.shape))
        for name, example in zip(names, examples, strict=True)
    ]
    (found,) = walk.run(graph, closed.jaxpr, closed.consts, inputs)
    graph.emit("Identity", [graph.plain(found)], output=result)
    nodes, constants = folding.fold(graph.nodes, graph.constants)
    described = [
        (name, values.TYPES[np.dtype(example.dtype)], example.shape)
        for name, example in zip(names, examples, strict=True)
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "seg",
            [_info(*each) for each in described],
            [_info(result, TensorProto.FLOAT, found.shape)],
            [
                numpy_helper.from_array(array, name)
                for name, array in constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="seg",
    )


def _info(name: str, kind: int, shape: Sequence[Any]) -> Any:
    sizes = [
        size if isinstance(size, int) else "BHW"[axis]
        for axis, size in enumerate(shape)
    ]
    return helper.make_tensor_value_info(name, kind, sizes)
