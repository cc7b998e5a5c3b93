"""What a graph is made of: nodes, constants, values, and their sizes.

A value is a NumPy array, in the layout of JAX, as long as it is known, and a
`Tensor` from then on. Tensors with four axes are stored channels first. What a
broadcast repeats is stored once: ONNX repeats it again where it is used, as
JAX does, and `Graph.full` where it must be there.
"""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from onnx import TensorProto, helper

from seg import config as config_lib

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # to channels last, and first
TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(bool): TensorProto.BOOL,
}

Size = Any  # an int, or an expression of jax.export's symbols
Shape = tuple[Size, ...]


class UnsupportedError(config_lib.UserError):
    """An operation that the graph cannot hold."""


def refused(what: str) -> UnsupportedError:
    """The error for something that has no ONNX form here."""
    return UnsupportedError(
        f"{what} has no ONNX form here; export the model as StableHLO"
    )


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value of the graph.

    shape: as JAX has it. stored: the same, 1 where it is not repeated yet.
    """

    name: str
    shape: Shape
    stored: Shape


Value = Tensor | np.ndarray


def stored(value: Value) -> Shape:
    """The sizes of what is there, in the order of JAX."""
    return value.stored if isinstance(value, Tensor) else value.shape


def place(axis: int, n_axes: int) -> int:
    """Where an axis of JAX is stored."""
    return FIRST.index(axis) if n_axes == 4 else axis


class Graph:
    """Nodes and constants, in the order they were made."""

    def __init__(
        self, names: Sequence[str], examples: Sequence[jax.ShapeDtypeStruct]
    ):
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._n = 0
        self._inputs = [*zip(names, examples, strict=True)]
        self._symbols: dict[str, str] = {}  # of jax.export -> a name

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant, stored as it is given."""
        name = self._name()
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def integers(self, *numbers: int) -> str:
        """The name of a list of numbers: axes, sizes."""
        return self.constant(np.array(numbers, np.int64))

    def emit(
        self, op: str, inputs: Sequence[str], output: str = "", **attributes
    ) -> str:
        """Adds a node; returns the name of its output."""
        output = output or self._name()
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def split(self, name: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Adds a node with an output for each part of an axis."""
        outputs = [self._name() for _ in sizes]
        inputs = [name, self.integers(*sizes)]
        self.nodes.append(helper.make_node("Split", inputs, outputs, axis=axis))
        return outputs

    def _name(self) -> str:
        self._n += 1
        return f"v{self._n}"

    # ------------------------------------------------------------- layouts
    def name(self, value: Value) -> str:
        """The name of a value as it is stored."""
        if isinstance(value, Tensor):
            return value.name
        if value.ndim == 4:
            value = value.transpose(FIRST)
        return self.constant(value)

    def full(self, value: Value) -> Value:
        """The value, with every element stored."""
        if stored(value) == value.shape:
            return value
        shape = value.shape
        if len(shape) == 4:
            shape = tuple(shape[axis] for axis in FIRST)
        name = self.emit("Expand", [value.name, self.sizes(shape)])
        return Tensor(name, value.shape, value.shape)

    def plain(self, value: Value) -> str:
        """The name of the whole value in the layout of JAX."""
        if isinstance(value, np.ndarray):
            return self.constant(value)
        return self.in_order(self.full(value))

    def in_order(self, value: Tensor) -> str:
        """The name of what is stored in the layout of JAX."""
        if len(value.shape) != 4:
            return value.name
        return self.emit("Transpose", [value.name], perm=LAST)

    def store(self, name: str, shape: Shape) -> Tensor:
        """The value that stands under a name in the layout of JAX."""
        if len(shape) == 4:
            name = self.emit("Transpose", [name], perm=FIRST)
        return Tensor(name, shape, shape)

    # --------------------------------------------------------------- sizes
    def sizes(self, shape: Sequence[Size]) -> str:
        """The name of a list of sizes (int64), whatever they depend on."""
        if all(isinstance(size, int) for size in shape):
            return self.integers(*shape)
        parts = [self.size(size) for size in shape]
        return self.emit("Concat", parts, axis=0)

    def size(self, size: Size) -> str:
        """The name of a list of one size."""
        if isinstance(size, int):
            return self.integers(size)
        if not self._symbols:
            self._symbols = self._measure()
        tree = ast.parse(str(size), mode="eval").body
        return self._compute(tree, self._symbols)

    def _measure(self) -> dict[str, str]:
        """The symbols, by the sizes of the inputs."""
        found: dict[str, str] = {}
        for name, example in self._inputs:
            for axis, size in enumerate(example.shape):
                tree = ast.parse(str(size), mode="eval").body
                times = 1
                if isinstance(tree, ast.BinOp):  # 16*h
                    times, tree = tree.left.value, tree.right
                if not isinstance(tree, ast.Name) or tree.id in found:
                    continue
                whole = self.emit("Shape", [name], start=axis, end=axis + 1)
                by = self.integers(times)
                found[tree.id] = self.emit("Div", [whole, by])
        return found

    def _compute(self, tree: ast.expr, symbols: Mapping[str, str]) -> str:
        """An expression as jax.export writes it: the parse of `8*h + 1`."""
        match tree:
            case ast.Constant(value):
                return self.integers(value)
            case ast.Name(name):
                return symbols[name]
            case ast.UnaryOp(ast.USub(), inner):
                return self.emit("Neg", [self._compute(inner, symbols)])
            case ast.BinOp(left, kind, right) if type(kind) in _ARITHMETIC:
                parts = [self._compute(t, symbols) for t in (left, right)]
                return self.emit(_ARITHMETIC[type(kind)], parts)
            case ast.Call(ast.Name("floordiv"), parts):
                parts = [self._compute(part, symbols) for part in parts]
                return self.emit("Div", parts)  # of what is not negative
        raise refused(f"the size {ast.unparse(tree)}")


_ARITHMETIC = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}


def difference(one: Size, other: Size) -> int | None:
    """one - other, if it is the same for all images."""
    found = one - other
    return found if isinstance(found, int) else None
