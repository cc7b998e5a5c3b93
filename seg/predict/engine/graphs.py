"""The network as an ONNX graph, by the engines that are made for CPUs.

OpenVINO computes in bfloat16 where the processor does (AMX or AVX-512) and the
result agrees: the first batch is computed in both ways, and where more than
one pixel in a thousand would change sides, float32 stays.
"""

import logging
import os
import pathlib
import sys
from typing import Any

import numpy as np

from seg.predict import engine

_LOG = logging.getLogger(__name__)
_CHANGED = 1e-3  # share of the pixels whose class bfloat16 may change


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
        self._dtype = dtype or ("bf16" if _has_bfloat16() else "f32")
        self._checked = bool(dtype) or self._dtype == "f32"
        self._compiled: dict[tuple[tuple[int, ...], str], Any] = {}

    def call(self, image: np.ndarray, stats: np.ndarray) -> np.ndarray:
        """See `_Graph`."""
        if not self._checked:
            self._check(image, stats)
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

    def _check(self, image: np.ndarray, stats: np.ndarray) -> None:
        half, full = (self._run(image, stats, d) for d in ("bf16", "f32"))
        self._checked = True
        changed = _classes(half) != _classes(full)
        if changed.mean() > _CHANGED:
            self._dtype = "f32"
            _LOG.debug(
                "bfloat16 changes %.2g %% of the pixels; float32 it is",
                100 * changed.mean(),
            )


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
    return found > 0.5 if found.shape[-1] == 1 else found.argmax(-1)


def _has_bfloat16() -> bool:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = text.partition("flags")[2].partition("\n")[0].split()
    return bool({"amx_bf16", "avx512_bf16"} & set(flags))
