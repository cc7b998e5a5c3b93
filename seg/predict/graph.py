"""A JAX function as an ONNX graph, channels first, constants folded.

Convolution engines for CPUs want [B, C, H, W]; the networks of seg are written
[B, H, W, C]. A graph that is converted as it stands changes the layout at
every convolution, which costs them half their speed. So the jaxpr is read once
and each four-dimensional value is kept channels first from the first
convolution on; what depends on weights alone is computed here, and a factor
and an offset by channel behind a convolution (BatchNorm in use) go into its
weights. Input and output keep the layout of JAX.

Two patterns are recognised, as `seg.models.blocks` writes them: the maximum
over 2x2 windows and depth-to-space. Whatever has no rule is refused by name.
The batch, H and W stay free; an operation that needs their numbers is refused.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from seg import config as config_lib

OPSET = 17

_TO_THE_END = 2**31 - 1
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # to channels last, and first

_ELEMENTWISE = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh",
    "logistic": "Sigmoid", "sqrt": "Sqrt", "erf": "Erf", "abs": "Abs",
    "gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual",
    "le": "LessOrEqual", "eq": "Equal", "and": "And", "or": "Or",
    "not": "Not", "floor": "Floor", "pow": "Pow", "stop_gradient": "Identity",
    "copy": "Identity", "copy_p": "Identity",
}  # fmt: skip
_REDUCE = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax"}
_INLINE = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(bool): TensorProto.BOOL,
}


class UnsupportedError(config_lib.UserError):
    """An operation that the graph cannot hold."""


def _sized(op: str) -> UnsupportedError:
    return UnsupportedError(
        f"a {op} needs the sizes of its input, which a graph for any image "
        "does not know; export the model as StableHLO"
    )


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A value of the graph, stored channels first if `first`."""

    name: str
    shape: tuple[int, ...]  # as JAX has it
    first: bool = False


Value = _Tensor | np.ndarray


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
    examples : shape and dtype of each argument.
    names : of the arguments in the graph.
    result : name of the result.

    Returns
    -------
    onnx.ModelProto. Axis 0 of arguments and result is free ("B"), and axes 1
    and 2 of four-dimensional ones ("H", "W").

    Raises
    ------
    UnsupportedError
        naming the first operation without a rule, or that needs the sizes of
        its input.
    """
    closed = jax.make_jaxpr(function)(*examples)
    graph = _Graph()
    inputs = [
        _Tensor(name, tuple(example.shape))
        for name, example in zip(names, examples, strict=True)
    ]
    (found,) = graph.run(closed.jaxpr, closed.consts, inputs)
    graph.emit("Identity", [graph.last(found)], output=result)
    graph.fold()

    def free(shape: Sequence[int]) -> list[int | str]:
        names = ["B", "H", "W"] if len(shape) == 4 else ["B"]
        return [*names, *shape[len(names) :]]

    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "seg",
            [
                helper.make_tensor_value_info(
                    name, _TYPES[np.dtype(example.dtype)], free(example.shape)
                )
                for name, example in zip(names, examples, strict=True)
            ],
            [
                helper.make_tensor_value_info(
                    result, TensorProto.FLOAT, free(found.shape)
                )
            ],
            [
                numpy_helper.from_array(array, name)
                for name, array in graph.constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="seg",
    )


class _Graph:
    """Nodes and constants, in the order they were made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._n = 0

    # ------------------------------------------------------------- values
    def name(self) -> str:
        self._n += 1
        return f"v{self._n}"

    def constant(self, array: np.ndarray) -> str:
        name = self.name()
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def emit(
        self, op: str, inputs: Sequence[str], output: str = "", **attributes
    ) -> str:
        output = output or self.name()
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def first(self, value: Value) -> str:
        """The name of a value with four axes, channels first."""
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(_FIRST))
        if value.first:
            return value.name
        return self.emit("Transpose", [value.name], perm=_FIRST)

    def last(self, value: Value) -> str:
        """The name of a value in the layout of JAX."""
        if isinstance(value, np.ndarray):
            return self.constant(value)
        if not value.first:
            return value.name
        return self.emit("Transpose", [value.name], perm=_LAST)

    # ---------------------------------------------------------- equations
    def run(
        self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Value]
    ) -> list[Value]:
        """Adds the equations of a jaxpr; returns what it returns."""
        known: dict[Any, Value] = {}
        known |= zip(jaxpr.constvars, map(np.asarray, constants), strict=True)
        known |= zip(jaxpr.invars, inputs, strict=True)

        def read(atom: Any) -> Value:
            if isinstance(atom, jax.extend.core.Literal):
                return np.asarray(atom.val, atom.aval.dtype)
            return known[atom]

        equations = list(jaxpr.eqns)
        while equations:
            equation, *equations = equations
            values = [read(atom) for atom in equation.invars]
            length, found = 1, None
            if all(isinstance(value, np.ndarray) for value in values):
                found = _fold(equation, values)
            elif pattern := _pattern([equation, *equations], values[0]):
                length, op, attributes = pattern
                equation = ([equation, *equations])[length - 1]
                (out,) = equation.outvars
                name = self.emit(op, [self.first(values[0])], **attributes)
                found = [_Tensor(name, out.aval.shape, first=True)]
            elif equation.primitive.name in _INLINE:
                inner, consts = _inner(equation)
                found = self.run(inner, consts, values)
            else:
                found = [self._one(equation, values)]
            equations = equations[length - 1 :]
            known |= zip(equation.outvars, found, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _one(self, equation: Any, values: list[Value]) -> _Tensor:
        """Adds one equation with one result."""
        op = equation.primitive.name
        (out,) = equation.outvars
        shape = tuple(out.aval.shape)
        rule = getattr(self, f"_{op}", None)
        if op in _ELEMENTWISE:
            return self._elementwise(_ELEMENTWISE[op], values, shape)
        if op in _REDUCE:
            return self._reduce(_REDUCE[op], values[0], equation.params, shape)
        if rule is None:
            raise UnsupportedError(
                f"the operation {op} has no ONNX form here; export the model "
                "as StableHLO"
            )
        return rule(values, equation.params, shape, out.aval)

    def _elementwise(
        self, op: str, values: Sequence[Value], shape: tuple[int, ...]
    ) -> _Tensor:
        first = any(isinstance(v, _Tensor) and v.first for v in values)
        names = []
        for value in values:
            if first and len(value.shape) == 4:
                names.append(self.first(value))
            else:
                names.append(self.last(value))
        return _Tensor(self.emit(op, names), shape, first)

    def _reduce(
        self, op: str, value: _Tensor, params: Any, shape: tuple[int, ...]
    ) -> _Tensor:
        axes = list(params["axes"])
        name = self.last(value)
        if op == "ReduceSum":  # its axes are an input since opset 13
            axes_name = self.constant(np.array(axes, np.int64))
            name = self.emit(op, [name, axes_name], keepdims=0)
        else:
            name = self.emit(op, [name], axes=axes, keepdims=0)
        return _Tensor(name, shape)

    # The rules below are found by the name of the primitive.
    def _square(self, values, params, shape, aval) -> _Tensor:
        return self._elementwise("Mul", [values[0]] * 2, shape)

    def _integer_pow(self, values, params, shape, aval) -> _Tensor:
        power = np.array(params["y"], aval.dtype)
        return self._elementwise("Pow", [values[0], power], shape)

    def _rsqrt(self, values, params, shape, aval) -> _Tensor:
        root = self._elementwise("Sqrt", values, shape)
        return self._elementwise("Reciprocal", [root], shape)

    def _erfc(self, values, params, shape, aval) -> _Tensor:
        erf = self._elementwise("Erf", values, shape)
        return self._elementwise("Sub", [np.array(1, np.float32), erf], shape)

    def _select_n(self, values, params, shape, aval) -> _Tensor:
        which, off, on = values
        return self._elementwise("Where", [which, on, off], shape)

    def _clamp(self, values, params, shape, aval) -> _Tensor:
        low, value, high = values
        value = self._elementwise("Max", [value, low], shape)
        return self._elementwise("Min", [value, high], shape)

    def _convert_element_type(self, values, params, shape, aval) -> _Tensor:
        (value,) = values
        to = _TYPES.get(np.dtype(params["new_dtype"]))
        if to is None:
            raise UnsupportedError(
                f"numbers of type {params['new_dtype']} have no place in the "
                "graph; export the model with model.dtype=float32"
            )
        name = self.emit("Cast", [value.name], to=to)
        return dataclasses.replace(value, name=name)

    def _conv_general_dilated(self, values, params, shape, aval) -> _Tensor:
        image, kernel = values
        numbers = params["dimension_numbers"]
        if (
            not isinstance(kernel, np.ndarray)
            or (numbers.lhs_spec, numbers.out_spec) != (_FIRST, _FIRST)
            or set(params["lhs_dilation"]) != {1}
            or params["batch_group_count"] != 1
        ):
            raise UnsupportedError(
                "a convolution of this kind has no ONNX form here; export the "
                "model as StableHLO"
            )
        kernel = kernel.transpose(numbers.rhs_spec).astype(np.float32)
        (top, bottom), (left, right) = params["padding"]
        name = self.emit(
            "Conv",
            [self.first(image), self.constant(kernel)],
            kernel_shape=kernel.shape[2:],
            pads=[top, left, bottom, right],
            strides=list(params["window_strides"]),
            dilations=list(params["rhs_dilation"]),
            group=params["feature_group_count"],
        )
        return _Tensor(name, shape, first=True)

    def _dot_general(self, values, params, shape, aval) -> _Tensor:
        value, kernel = values
        contract, batch = params["dimension_numbers"]
        plain = (
            isinstance(kernel, np.ndarray)
            and kernel.ndim == 2
            and batch == ((), ())
            and contract == ((len(value.shape) - 1,), (0,))
        )
        if not plain:
            raise UnsupportedError(
                "a product of this kind has no ONNX form here; export the "
                "model as StableHLO"
            )
        kernel = kernel.astype(np.float32)
        if len(value.shape) != 4:
            names = [self.last(value), self.constant(kernel)]
            return _Tensor(self.emit("MatMul", names), shape)
        weights = self.constant(kernel.T[:, :, None, None])
        names = [self.first(value), weights]
        name = self.emit("Conv", names, kernel_shape=[1, 1])
        return _Tensor(name, shape, first=True)

    def _concatenate(self, values, params, shape, aval) -> _Tensor:
        axis, four = params["dimension"], len(shape) == 4
        names = [self.first(v) if four else self.last(v) for v in values]
        axis = _FIRST.index(axis) if four else axis
        return _Tensor(self.emit("Concat", names, axis=axis), shape, four)

    def _slice(self, values, params, shape, aval) -> _Tensor:
        (value,) = values
        steps = params["strides"] or (1,) * len(shape)
        ranges = zip(
            params["start_indices"], params["limit_indices"], steps,
            value.shape, strict=True,
        )  # fmt: skip
        cut = {
            axis: (start, _TO_THE_END if limit == size else limit, step)
            for axis, (start, limit, step, size) in enumerate(ranges)
            if (start, limit, step) != (0, size, 1)
        }
        if not cut:
            return value
        axes = [_FIRST.index(a) if value.first else a for a in cut]
        columns = [*zip(*cut.values(), strict=True)]
        starts, ends, steps = (np.array(c, np.int64) for c in columns)
        if any(
            end != _TO_THE_END and axis < len(shape) - 1
            for axis, (_, end, _) in cut.items()
        ):
            raise _sized("slice")
        arrays = (starts, ends, np.array(axes, np.int64), steps)
        name = self.emit("Slice", [value.name, *map(self.constant, arrays)])
        return _Tensor(name, shape, value.first)

    def _pad(self, values, params, shape, aval) -> _Tensor:
        value, fill = values
        config = params["padding_config"]
        if any(inner or min(low, high) < 0 for low, high, inner in config):
            raise UnsupportedError(
                "padding between elements has no ONNX form here; export the "
                "model as StableHLO"
            )
        order = _FIRST if value.first else range(len(shape))
        pads = [config[a][end] for end in (0, 1) for a in order]
        names = [
            value.name,
            self.constant(np.array(pads, np.int64)),
            self.constant(np.asarray(fill)),
        ]
        return _Tensor(self.emit("Pad", names), shape, value.first)

    def _broadcast_in_dim(self, values, params, shape, aval) -> _Tensor:
        (value,) = values
        at = params["broadcast_dimensions"]
        new = [axis for axis in range(len(shape)) if axis not in at]
        name = self.last(value)
        if new:
            axes = self.constant(np.array(new, np.int64))
            name = self.emit("Unsqueeze", [name, axes])
        thin = [1] * len(shape)
        for axis, size in zip(at, value.shape, strict=True):
            thin[axis] = size
        if tuple(thin) != shape:
            raise _sized("broadcast_in_dim")
        return _Tensor(name, shape)

    def _squeeze(self, values, params, shape, aval) -> _Tensor:
        axes = self.constant(np.array(params["dimensions"], np.int64))
        name = self.emit("Squeeze", [self.last(values[0]), axes])
        return _Tensor(name, shape)

    def _expand_dims(self, values, params, shape, aval) -> _Tensor:
        axes = self.constant(np.array(params["dimensions"], np.int64))
        name = self.emit("Unsqueeze", [self.last(values[0]), axes])
        return _Tensor(name, shape)

    def _reshape(self, values, params, shape, aval) -> _Tensor:
        raise _sized("reshape")

    def _transpose(self, values, params, shape, aval) -> _Tensor:
        name = self.emit(
            "Transpose", [self.last(values[0])], perm=params["permutation"]
        )
        return _Tensor(name, shape)

    # ------------------------------------------------------------- folding
    def fold(self) -> None:
        """Puts factors and offsets behind convolutions into their weights."""
        readers: dict[str, int] = {}
        for node in self.nodes:
            for name in node.input:
                readers[name] = readers.get(name, 0) + 1
        makers = {node.output[0]: node for node in self.nodes}
        kept = []
        for node in self.nodes:
            conv, constant = self._behind(node, makers, readers)
            if conv is None:
                kept.append(node)
                continue
            weights = self.constants[conv.input[1]]
            bias = np.zeros(len(weights), np.float32)
            if len(conv.input) > 2:
                bias = self.constants[conv.input[2]]
            by_channel = np.broadcast_to(constant.ravel(), len(weights))
            if node.op_type == "Mul":
                weights = weights * by_channel[:, None, None, None]
                bias = bias * by_channel
            else:
                bias = bias + by_channel
            del conv.input[1:]
            conv.input.extend([self.constant(weights), self.constant(bias)])
            conv.output[0] = node.output[0]
            makers[node.output[0]] = conv
        self.nodes = kept
        used = {name for node in self.nodes for name in node.input}
        self.constants = {
            name: array
            for name, array in self.constants.items()
            if name in used
        }

    def _behind(
        self, node: Any, makers: dict[str, Any], readers: dict[str, int]
    ) -> tuple[Any, np.ndarray | None]:
        """The convolution and the constant that a node can be folded into."""
        if node.op_type not in ("Mul", "Add"):
            return None, None
        for conv_name, name in (node.input, node.input[::-1]):
            conv, constant = makers.get(conv_name), self.constants.get(name)
            if (
                conv is not None
                and conv.op_type == "Conv"
                and readers[conv_name] == 1
                and constant is not None
                and constant.size in (1, self.constants[conv.input[1]].shape[0])
                and (
                    constant.ndim == 0
                    or constant.shape[1:2] == (constant.size,)
                )
            ):
                return conv, constant
        return None, None


def _fold(equation: Any, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Computes an equation of constants."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        if equation.primitive.name in _INLINE:
            inner, consts = _inner(equation)
            found = jax.core.eval_jaxpr(inner, consts, *values)
        else:
            found = equation.primitive.bind(*values, **equation.params)
    if not equation.primitive.multiple_results:
        found = [found]
    return [np.asarray(value) for value in found]


def _inner(equation: Any) -> tuple[Any, Sequence[Any]]:
    inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
    return inner.jaxpr, inner.consts


def _pattern(
    equations: Sequence[Any], value: Value
) -> tuple[int, str, dict[str, Any]] | None:
    """What the first equations are together: how many, an operation, how."""
    names = [equation.primitive.name for equation in equations[:3]]
    if names[:1] != ["reshape"] or len(value.shape) != 4:
        return None
    b, h, w, c = value.shape
    split = tuple(equations[0].outvars[0].aval.shape)
    if names[1:2] == ["reduce_max"]:
        halves = (b, h // 2, 2, w // 2, 2, c)
        if split == halves and equations[1].params["axes"] == (2, 4):
            return 2, "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}
    if names[1:] != ["transpose", "reshape"]:
        return None
    order = tuple(equations[1].params["permutation"])
    result = tuple(equations[2].outvars[0].aval.shape)
    if (
        split == (b, h, w, 2, 2, c // 4)
        and order == (0, 1, 3, 2, 4, 5)
        and result == (b, 2 * h, 2 * w, c // 4)
    ):
        return 3, "DepthToSpace", {"blocksize": 2, "mode": "DCR"}
    if (
        split == (b, h // 2, 2, w // 2, 2, c)
        and order == (0, 1, 3, 2, 4, 5)
        and result == (b, h // 2, w // 2, 4 * c)
    ):
        return 3, "SpaceToDepth", {"blocksize": 2}
    return None
