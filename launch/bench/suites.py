"""The rows of each suite: what is compared with what, at which size."""

import dataclasses
from collections.abc import Callable
from typing import Any

from launch.bench import duel, flops, ours
from seg import compiler


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says of all rows.

    runs of each side, None = the row's own; side of the largest slide, px, 0 =
    the suite's; mode of torch.compile; tiny = small enough to see that it runs.
    """

    runs: int | None = None
    side: int = 0
    mode: str = "default"
    tiny: bool = False


Measure = Callable[[str, Options], duel.Row]

_OURS, _TORCH = "launch.bench.ours", "launch.bench.torch_peer"
_COMMANDS = "launch.bench.commands"
_SCRIPT = "launch.bench.torch_script"
_RUNS = 7
_UNET = {"batch_size": 4, "side": 256, "width": 32}
_TINY = {"batch_size": 2, "side": 64, "width": 4}
_FOLDER = {"n_images": 8, "side": 2048, "width": 16, "tile": 256,
           "batch_size": 4}  # fmt: skip
_TINY_FOLDER = {"n_images": 2, "side": 256, "width": 4, "tile": 64,
                "batch_size": 4}  # fmt: skip
# The two processes share a GPU's memory; by default JAX takes three quarters.
_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_WAIT = 20  # steps of training from one wait for the GPU to the next


def _compare(
    name: str,
    options: Options,
    ours: str,
    peer: str,
    *,
    runs: int = _RUNS,
    **settings: Any,
) -> duel.Row:
    runs = options.runs or runs
    if options.tiny:
        settings["warm"] = 0
    return duel.compare(name, ours, peer, runs, **settings)


def _torch(what: str, dtype: str) -> Measure:
    def measure(name: str, options: Options) -> duel.Row:
        return _compare(
            name,
            options,
            f"{_OURS}:{what}",
            f"{_TORCH}:{what}",
            # as launch.train starts; `seg predict` has nothing of the kind
            environment=compiler.environment() if what == "train_step" else {},
            dtype=dtype,
            **(_TINY if options.tiny else _UNET),
        )

    return measure


def _objects(name: str, options: Options) -> duel.Row:
    side, n_objects = (256, 64) if options.tiny else (4096, 10_000)
    return _compare(
        name,
        options,
        f"{_OURS}:objects",
        "launch.bench.skimage_peer:objects",
        side=side,
        n_objects=n_objects,
    )


def _stardist(name: str, options: Options) -> duel.Row:
    size = _TINY if options.tiny else {**_UNET, "width": 16, "side": 512}
    return _compare(
        name,
        options,
        f"{_OURS}:predict",
        f"{_TORCH}:stardist",
        work=size["batch_size"] * size["side"] ** 2 / 1e6,
        unit="Mpx/s",
        dtype="bfloat16",
        **size,
    )


def _folder(name: str, options: Options) -> duel.Row:
    size = _TINY_FOLDER if options.tiny else _FOLDER
    return _compare(
        name,
        options,
        f"{_COMMANDS}:cold",
        f"{_SCRIPT}:cold",
        runs=3,
        warm=0,
        work=size["n_images"] * size["side"] ** 2 / 1e6,
        unit="Mpx/s",
        device="cpu",
        **size,
    )


def _cold(name: str, options: Options) -> duel.Row:
    size = _TINY_FOLDER if options.tiny else {**_FOLDER, "side": 512}
    return _compare(
        name,
        options,
        f"{_COMMANDS}:cold",
        f"{_SCRIPT}:cold",
        warm=1,
        device="cpu",
        **{**size, "n_images": 1},
    )


def _post_share(name: str, options: Options) -> duel.Row:
    return _compare(
        name,
        options,
        f"{_COMMANDS}:post_share",
        f"{_COMMANDS}:goal",
        runs=3,
        warm=0,
        value="less",
        unit="share",
        goal=1 / 3,
        **(_TINY_FOLDER if options.tiny else _FOLDER),
    )


def _gpu(what: str, network: str, width: int) -> Measure:
    """Network against torch.compile, with memory and utilisation."""

    def measure(name: str, options: Options) -> duel.Row:
        steps = _WAIT if what == "train_step" and not options.tiny else 1
        size = {"batch_size": 32, "side": 256, "width": width}
        if options.tiny:
            size = _TINY
        row = _compare(
            name,
            options,
            f"{_OURS}:{what}",
            f"{_TORCH}:{what}",
            each=steps,
            environment=_SHARED,
            dtype="bfloat16",
            device="cpu" if options.tiny else "cuda",
            mode="" if options.tiny else options.mode,
            architecture=network,
            **({"steps": steps} if what == "train_step" else {}),
            **size,
        )
        passes = 3 if what == "train_step" else 1
        model = ours.network("bfloat16", size["width"], network).model
        work = flops.forward(model, size["side"]) * size["batch_size"] * passes
        kind = row.about["ours"]["device"]
        shares = [
            flops.utilisation(work, seconds, kind)
            for seconds in (row.ours, row.peer)
        ]
        return _with(row, tflop=work / 1e12, model_flop_utilisation=shares)

    return measure


def _stitched(name: str, options: Options) -> duel.Row:
    size = _TINY_FOLDER if options.tiny else {
        "side": 8192, "width": 16, "tile": 512, "batch_size": 16
    }  # fmt: skip
    return _compare(
        name,
        options,
        f"{_COMMANDS}:warm",
        f"{_SCRIPT}:warm",
        runs=3,
        warm=1,
        environment=_SHARED,
        work=size["side"] ** 2 / 1e6,
        unit="Mpx/s",
        device="cpu" if options.tiny else "cuda",
        **{**size, "n_images": 1},
    )


def _memory(name: str, options: Options) -> duel.Row:
    side = options.side or (512 if options.tiny else 32_768)
    row = _compare(
        name,
        options,
        f"{_COMMANDS}:memory_large",
        f"{_COMMANDS}:memory_small",
        runs=1,
        warm=0,
        value="less",
        unit="GB",
        sides=[min(2048, side // 2), side],
    )
    return _with(row, difference_gb=row.ours - row.peer)


def _scale(name: str, options: Options) -> duel.Row:
    side = options.side or (512 if options.tiny else 16_384)
    return _compare(
        name,
        options,
        f"{_COMMANDS}:scale_large",
        f"{_COMMANDS}:scale_small",
        runs=1,
        warm=0,
        value="more",
        unit="Mpx/s",
        sides=[side // 4, side // 2, side],
    )


def _with(row: duel.Row, **more: Any) -> duel.Row:
    return dataclasses.replace(row, about={**row.about, **more})


SUITES: dict[str, dict[str, Measure]] = {
    "cpu": {
        "train_step_f32_vs_torch": _torch("train_step", dtype="float32"),
        "train_step_bf16_vs_torch": _torch("train_step", dtype="bfloat16"),
        "predict_vs_torch_f32": _torch("predict", dtype="float32"),
        "predict_vs_torch_bf16": _torch("predict", dtype="bfloat16"),
        "predict_vs_stardist": _stardist,
        "predict_end_to_end": _folder,
        "predict_cold_512": _cold,
        "post_share": _post_share,
        "objects_vs_skimage": _objects,
    },
    "gpu": {
        "train_step_bf16_vs_torch_compile": _gpu("train_step", "unet", 64),
        "train_step_small_bf16_vs_torch_compile": _gpu(
            "train_step", "unet_small", 32
        ),
        "predict_bf16_vs_torch_compile": _gpu("predict", "unet", 64),
        "predict_small_bf16_vs_torch_compile": _gpu(
            "predict", "unet_small", 32
        ),
        "predict_8192": _stitched,
    },
    "memory": {"memory_predict_slide": _memory},
    "scale": {"scale_predict_slide": _scale},
}
