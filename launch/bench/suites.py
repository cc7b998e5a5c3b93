"""The rows of each suite: what is compared with what, at which size."""

from collections.abc import Callable

from launch.bench import duel

Measure = Callable[[str, int], duel.Row]

_OURS, _TORCH = "launch.bench.ours", "launch.bench.torch_peer"
_UNET = {"batch_size": 4, "side": 256, "width": 32}


def _against(ours: str, peer: str, **settings) -> Measure:
    def measure(name: str, runs: int) -> duel.Row:
        return duel.compare(name, ours, peer, runs, **settings)

    return measure


def _torch(what: str, dtype: str) -> Measure:
    return _against(f"{_OURS}:{what}", f"{_TORCH}:{what}", **_UNET, dtype=dtype)


SUITES: dict[str, dict[str, Measure]] = {
    "cpu": {
        "train_step_f32_vs_torch": _torch("train_step", dtype="float32"),
        "train_step_bf16_vs_torch": _torch("train_step", dtype="bfloat16"),
        "predict_vs_torch_f32": _torch("predict", dtype="float32"),
        "predict_vs_torch_bf16": _torch("predict", dtype="bfloat16"),
        "objects_vs_skimage": _against(
            f"{_OURS}:objects",
            "launch.bench.skimage_peer:objects",
            side=4096,
            n_objects=10_000,
        ),
    },
}
