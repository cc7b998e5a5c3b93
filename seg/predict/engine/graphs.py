"""The network as an ONNX graph, by the engines that are made for CPUs.

OpenVINO computes in bfloat16 where the processor does (AMX or AVX-512) and the
result agrees: drawn images are computed in both ways, and where a class has a
Dice below .999, a probability moves by more than .1, or there is but one class
to be seen, float32 stays. They are always the same images, so that a model
computes in one type, whatever it segments, and an interrupted run goes on in
the type in which it began.
"""

import logging
import os
import sys
from typing import Any

import numpy as np

from seg import config, normalize
from seg.data import synthetic
from seg.predict import engine

_LOG = logging.getLogger(__name__)
_DICE = 0.999  # of each class, bfloat16 with float32, at least
_FAR = 0.1  # and how far a probability may move
_LEAST = 0.01  # share of the pixels from which a class tells anything
_PROBES = (("nuclei", 2), ("cells", 4), ("beads", 3))  # kinds and classes


class _Graph(engine.Engine):
    """What runs a graph.

    dtype is bf16, f32, or "" for the fastest that agrees.
    """

    def run(self, batch: np.ndarray, stats: np.ndarray) -> np.ndarray:
        return self.call(*engine.as_float(batch, stats))

    def call(self, image: np.ndarray, stats: np.ndarray) -> np.ndarray:
        """float32 [B, h, w, C] and [B, C, S].

        Of the statistics the graph takes the columns that there were when it
        was made.
        """
        raise NotImplementedError


class OnnxRuntime(_Graph):
    """By onnxruntime, in float32."""

    name = "onnx"

    def __init__(self, content: bytes, stride: int, dtype: str = ""):
        import onnxruntime

        super().__init__(stride)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        onnxruntime.disable_telemetry_events()
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def call(self, image: np.ndarray, stats: np.ndarray) -> np.ndarray:
        """See `_Graph`."""
        shapes = {port.name: port.shape for port in self._session.get_inputs()}
        stats = stats[..., : shapes["stats"][-1]]
        (found,) = self._session.run(None, {"image": image, "stats": stats})
        return found


class OpenVino(_Graph):
    """By OpenVINO, in the processor's fastest type that agrees."""

    name = "openvino"

    def __init__(self, content: bytes, stride: int, dtype: str = ""):
        # It would call home at its import, from a forked process; without the
        # package for that it does not.
        sys.modules.setdefault("openvino_telemetry", None)
        import openvino

        super().__init__(stride)
        self._core = openvino.Core()
        self._content = content
        self._compiled: dict[tuple[tuple[int, ...], str], Any] = {}
        self._dtype = dtype or self._fastest()

    def call(self, image: np.ndarray, stats: np.ndarray) -> np.ndarray:
        """See `_Graph`."""
        return self._run(image, stats, self._dtype)

    def _run(
        self, image: np.ndarray, stats: np.ndarray, dtype: str
    ) -> np.ndarray:
        arrays = {"image": image, "stats": stats}
        key = image.shape, dtype
        if key not in self._compiled:
            model = self._core.read_model(self._content)
            model.reshape(
                {
                    name: (*arrays[name].shape[:-1], n)
                    for name, n in _inputs(model).items()
                }
            )
            self._compiled[key] = self._core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": dtype,
                    "PERFORMANCE_HINT": "LATENCY",
                },
            )
        compiled = self._compiled[key]
        found = compiled(
            {
                name: arrays[name][..., :n]
                for name, n in _inputs(compiled).items()
            }
        )
        return np.array(found[0], np.float32)

    def _fastest(self) -> str:
        if not engine.has_bfloat16():
            return "f32"
        n_channels = _inputs(self._core.read_model(self._content))["image"]
        tiles = _probes(n_channels)
        half, full = (self._run(*tiles, dtype) for dtype in ("bf16", "f32"))
        self._compiled.clear()
        far = np.abs(half - full).max()
        dice = _dice(_classes(half), _classes(full))
        agrees = far <= _FAR and len(dice) > 1 and min(dice) >= _DICE
        _LOG.debug(
            "bfloat16 moves probabilities by %.2g, Dice by class %s; %s it is",
            far,
            " ".join(f"{each:.4f}" for each in dice),
            "bfloat16" if agrees else "float32",
        )
        return "bf16" if agrees else "f32"


def _probes(n_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Drawn images, float32 [B, 256, 256, C], and their statistics."""
    tiles = []
    for kind, n_classes in _PROBES:
        spec = config.Synthetic(
            kind=kind, n_classes=n_classes, height=256, width=256,
            n_objects=30, diameter=24.0,
        )  # fmt: skip
        image = synthetic.draw(spec, 0)["image"].repeat(n_channels, -1)
        tiles.append(engine.as_float(image[None], normalize.measure(image)))
    images, stats = zip(*tiles, strict=True)
    return np.concatenate(images), np.concatenate(stats)


def _dice(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Of each class that is common enough in one of two maps of classes."""
    return [
        float(
            2 * np.sum((a == k) & (b == k)) / (np.sum(a == k) + np.sum(b == k))
        )
        for k in range(int(max(a.max(), b.max())) + 1)
        if max(np.mean(a == k), np.mean(b == k)) >= _LEAST
    ]


def _inputs(model: Any) -> dict[str, int]:
    """Names of the inputs, and the lengths of their last axes.

    One that is never read is not among them.
    """
    return {
        port.get_any_name(): port.get_partial_shape()[-1].get_length()
        for port in model.inputs
    }


ENGINES = {"openvino": OpenVino, "onnx": OnnxRuntime}


def _classes(found: np.ndarray) -> np.ndarray:
    return found[..., 0] > 0.5 if found.shape[-1] == 1 else found.argmax(-1)
