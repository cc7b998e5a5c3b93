"""The rows of each suite: what is compared with what, at which size."""

import dataclasses
from collections.abc import Callable
from typing import Any

from launch.bench import duel, flops, ours, parity
from seg import compiler
from seg import config as config_lib


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says of all rows.

    runs of each side, None = the row's own; side of the largest slide, px, 0 =
    the suite's; width of the slides' U-Net, channels; mode of torch.compile;
    tiny = small enough to see that it runs.
    """

    runs: int | None = None
    side: int = 0
    width: int = 16
    mode: str = "default"
    tiny: bool = False


Measure = Callable[[str, Options], duel.Row]

_OURS, _TORCH = "launch.bench.ours", "launch.bench.torch_peer"
_COMMANDS = "launch.bench.commands"
_SCRIPT = "launch.bench.torch_script"
_RUNS = 7
_UNET = {"batch_size": 4, "side": 256, "width": 32}
_TINY = {"batch_size": 2, "side": 64, "width": 4}
_FOLDER = {"n_images": 8, "side": 2048, "width": 16, "tile": 576,
           "batch_size": 2, "device": "cpu"}  # fmt: skip
_TINY_FOLDER = {"n_images": 2, "side": 256, "width": 4, "tile": 64,
                "batch_size": 4, "device": "cpu"}  # fmt: skip
_ON_GPU = {"n_images": 1, "side": 8192, "width": 16, "tile": 576,
           "batch_size": 16, "device": "cuda"}  # fmt: skip
# The two processes share a GPU's memory; by default JAX takes three quarters.
_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_FILL_S = 1.0  # a GPU is waited for once in so long, as training does it
_SLIDE = 8192  # px: smaller images are no slides, `seg.images.slide.LARGE`
_LARGEST = 32_768


def _compare(
    name: str,
    options: Options,
    ours: str,
    peer: str,
    what: str,
    *,
    runs: int = _RUNS,
    **settings: Any,
) -> duel.Row:
    """A row in which both sides have computed the same; `what` was done."""
    if options.tiny:
        settings["warm"] = 0
    runs = options.runs or runs
    row = parity.checked(duel.compare(name, ours, peer, runs, **settings))
    return _with(row, what=what)


def _torch(what: str, dtype: str) -> Measure:
    def measure(name: str, options: Options) -> duel.Row:
        size = _TINY if options.tiny else _UNET
        return _compare(
            name,
            options,
            f"{_OURS}:{what}",
            f"{_TORCH}:{what}",
            f"{what.replace('_', ' ')}, {dtype}, {_tiles(size)}",
            environment=_started(what),
            dtype=dtype,
            **size,
        )

    return measure


def _started(what: str) -> dict[str, str]:
    """As launch.train starts; `seg predict` has nothing of the kind."""
    return compiler.environment() if what == "train_step" else {}


def _tiles(size: dict[str, int]) -> str:
    return f"{size['batch_size']} tiles of {size['side']} px"


def _objects(name: str, options: Options) -> duel.Row:
    side, n_objects = (256, 64) if options.tiny else (4096, 10_000)
    return _compare(
        name,
        options,
        f"{_OURS}:objects",
        "launch.bench.skimage_peer:objects",
        f"labels and table, {side} px, {n_objects} objects",
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
        f"predict, {_tiles(size)}; networks differ, results are not compared",
        work=size["batch_size"] * size["side"] ** 2 / 1e6,
        unit="Mpx/s",
        dtype="bfloat16",
        **size,
    )


def _command(
    what: str, peer: str, size: dict[str, Any], unit: str, **more: Any
) -> Measure:
    """`seg predict`, or its maps, and the script, by their time or speed."""

    def measure(name: str, options: Options) -> duel.Row:
        given = size
        if options.tiny:
            given = {**_TINY_FOLDER, "n_images": min(size["n_images"], 2)}
        n, side = given["n_images"], given["side"]
        work = n * side**2 / 1e6 if unit == "Mpx/s" else 0
        images = f"{n} image{'s' * (n > 1)} of {side} px"
        return _compare(
            name,
            options,
            f"{_COMMANDS}:{what}",
            peer,
            f"{name.replace('_', ' ')}: {images}",
            work=work,
            unit=unit,
            environment=_SHARED if given["device"] == "cuda" else {},
            **more,
            **given,
        )

    return measure


def _gpu(what: str, network: str, width: int) -> Measure:
    """Network against torch.compile, with memory and utilisation."""

    def measure(name: str, options: Options) -> duel.Row:
        size = {"batch_size": 32, "side": 256, "width": width}
        if options.tiny:
            size = _TINY
        row = _compare(
            name,
            options,
            f"{_OURS}:{what}",
            f"{_TORCH}:{what}",
            f"{what.replace('_', ' ')}, bfloat16, {_tiles(size)}, "
            "input on the device",
            fill_s=0.01 if options.tiny else _FILL_S,
            environment=_SHARED | _started(what),
            dtype="bfloat16",
            device="cpu" if options.tiny else "cuda",
            mode="aot_eager" if options.tiny else options.mode,
            architecture=network,
            **({"resident": True} if what == "predict" else {}),
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


def slides(options: Options, least: int, default: int) -> list[int]:
    """Sides of slides, px, each twice the one before, from `least` up.

    Raises ConfigError where there are fewer than two.
    """
    side = options.side or (512 if options.tiny else default)
    if options.tiny:
        least = side // 4
    if side < 2 * least:
        raise config_lib.ConfigError(
            f"--side={side} leaves nothing to compare; give {2 * least} or more"
        )
    sides = [side]
    while sides[0] // 2 >= least:
        sides.insert(0, sides[0] // 2)
    return sides


def _memory(name: str, options: Options) -> duel.Row:
    sides = slides(options, 2048, _LARGEST)
    row = _compare(
        name,
        options,
        f"{_COMMANDS}:memory_large",
        f"{_COMMANDS}:memory_small",
        "peak of seg predict",
        runs=1,
        warm=0,
        value="less",
        unit="GB",
        sides=[sides[0], sides[-1]],
        width=4 if options.tiny else options.width,
    )
    return _with(row, difference_gb=row.ours - row.peer)


def _scale(name: str, options: Options) -> duel.Row:
    return _compare(
        name,
        options,
        f"{_COMMANDS}:scale_large",
        f"{_COMMANDS}:scale_small",
        "seg predict, slides alone",
        runs=1,
        warm=0,
        value="more",
        unit="Mpx/s",
        sides=slides(options, _SLIDE, _LARGEST),
        width=4 if options.tiny else options.width,
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
        "predict_end_to_end": _command(
            "cold", f"{_SCRIPT}:cold", _FOLDER, "Mpx/s", runs=3, warm=0
        ),
        "predict_cold_512": _command(
            "cold",
            f"{_SCRIPT}:cold",
            {**_FOLDER, "n_images": 1, "side": 512},
            "s",
            warm=1,
        ),
        "post_share": _command(
            "post_share",
            f"{_COMMANDS}:goal",
            _FOLDER,
            "share",
            runs=3,
            warm=0,
            value="less",
            goal=1 / 3,
        ),
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
        "predict_8192_maps": _command(
            "maps", f"{_SCRIPT}:maps", _ON_GPU, "Mpx/s", runs=3, warm=0
        ),
        "predict_8192_objects": _command(
            "warm", f"{_SCRIPT}:warm", _ON_GPU, "Mpx/s", runs=1, warm=0
        ),
    },
    "memory": {"memory_predict_slide": _memory},
    "scale": {"scale_predict_slide": _scale},
}
