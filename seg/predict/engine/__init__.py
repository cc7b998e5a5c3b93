"""The network on batches of tiles, by whatever is fastest here.

    jax       every device; compiled for each shape (`xla`)
    openvino  CPUs: the model as an ONNX graph, by OpenVINO (`graphs`)
    onnx      CPUs: the same graph, by onnxruntime (`graphs`)

All take raw tiles and the statistics of the image that they are from, and give
the same probabilities. `auto` takes JAX where there is an accelerator, else the
first of openvino and onnx that is installed, else JAX. A bundle that holds the
graph (`seg export`, or the first use of such an engine) needs JAX no more.
"""

import glob
import importlib.util
import os

import numpy as np

from seg import compiler
from seg import config as config_lib

NAMES = ("auto", "jax", "onnx", "openvino")
MODULES = {"openvino": "openvino", "onnx": "onnxruntime"}
# What brings an accelerator to JAX; finding out by JAX takes half a second.
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin",
            "jax_rocm60_plugin", "libtpu")  # fmt: skip
# Where a plugin finds one: NVIDIA's, also in WSL; AMD's; TPUs.
_DEVICES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd", "/dev/accel*",
            "/dev/vfio/[0-9]*")  # fmt: skip

# px; sides of the windows for images smaller than the tile are multiples of it:
# few enough that a folder of odd sizes compiles little, close enough that
# little is computed in vain.
_STEP = 64


class OutOfMemory(MemoryError):
    """Not even one window fits into the accelerator's memory."""


class Engine:
    """What runs a network.

    stride: sides of a window are multiples of it. name: a key of `NAMES`.
    n_calls: calls of `run` that may be made at a time, and gain by it.
    """

    name: str
    n_calls = 1

    def __init__(self, stride: int):
        self.stride = stride

    def run(self, batch: np.ndarray, stats: np.ndarray) -> np.ndarray:
        """Runs a batch of tiles.

        Parameters
        ----------
        batch : [B, h, w, C] as read, h and w multiples of `stride`.
        stats : float32 [C, S] of the image, from `normalize.measure`.

        Returns
        -------
        float32 [B, h, w, K]: one sigmoid, or a softmax over all classes; with
        `model.objects` one channel more, the map that keeps objects apart.

        Raises
        ------
        OutOfMemory
            where one tile alone does not fit.
        """
        raise NotImplementedError

    def window(self, shape: tuple[int, int], tile: int) -> int:
        """The window for an image of this (H, W): at most `tile`, px.

        Rounded up to a multiple of `stride`; smaller than the tile where the
        whole image fits into less.
        """
        need = min(-(-max(shape) // _STEP) * _STEP, tile)
        return -(-need // self.stride) * self.stride


def as_float(
    batch: np.ndarray, stats: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """float32 [B, h, w, C], and the statistics of each tile [B, C, S]."""
    stats = np.broadcast_to(stats, (len(batch), *stats.shape))
    return batch.astype(np.float32), np.ascontiguousarray(stats, np.float32)


def choose(name: str) -> str:
    """The engine that `name`, perhaps "auto", stands for on this machine.

    Raises UserError for one that is not known or not installed.
    """
    if name not in NAMES:
        raise config_lib.ConfigError(config_lib.unknown("engine", name, NAMES))
    if name == "auto":
        if _has_accelerator():
            return "jax"
        return next((n for n in MODULES if installed(MODULES[n])), "jax")
    if name in MODULES and not installed(MODULES[name]):
        raise config_lib.UserError(
            f"--engine={name} needs {MODULES[name]}; pip install -e .[export]"
        )
    return name


def _has_accelerator() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] != "cpu"
    there = any(map(glob.glob, _DEVICES))
    return there and any(map(installed, _PLUGINS))


def identity(name: str) -> str:
    """What results may depend on: the engine that is chosen, and its types."""
    name = choose(name)
    half = name == "openvino" and has_bfloat16()
    return f"{name}, perhaps bfloat16" if half else name


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16."""
    flags = compiler.processor().get("flags", "").split()
    return bool({"amx_bf16", "avx512_bf16"} & set(flags))


def installed(module: str) -> bool:
    """Whether a module is there, found without importing it."""
    return importlib.util.find_spec(module) is not None
