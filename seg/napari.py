"""The plugin of napari that `napari.yaml` declares: Plugins > Segment (seg).

`segment` is arrays in and arrays out; the form alone needs napari.
"""

import math
import zlib
from collections.abc import Generator
from typing import Any

import numpy as np

import seg
from seg import config

Found = tuple[np.ndarray, list[dict[str, Any]], dict[tuple[int, ...], str]]
"""Labels int32 [..., H, W], rows of the table, planes that failed and why."""


def segment(
    image: Any,
    model: str = "nuclei",
    *,
    name: str = "",
    rgb: bool = False,
    pixel_size: tuple[float, float] | None = None,
    **settings: Any,
) -> Generator[None, None, Found]:
    """Segments each plane on its own; yields after each, returns all.

    image: [..., H, W], or if rgb [..., H, W, 3 or 4], whose alpha is dropped;
    what NumPy can slice, read plane by plane. pixel_size: (row, column),
    micrometres. The rest is as of `seg.load`. No id is in two planes. Raises
    UserError where the model cannot be used, or no plane.
    """
    predictor = seg.load(model, **settings)
    shape = image.shape[:-1] if rgb else image.shape
    labels, rows, failed, last = np.zeros(shape, np.int32), [], {}, 0
    for plane in np.ndindex(shape[:-2]):
        pixels = np.asarray(image[plane])[..., : 3 if rgb else None]
        try:
            found = predictor(pixels, name=name, pixel_size=pixel_size)
        except config.UserError as error:
            failed[plane] = str(error)
            if len(failed) == math.prod(shape[:-2]):
                raise
        else:
            labels[plane] = np.where(found.labels, found.labels + last, 0)
            at = {f"axis_{axis}": i for axis, i in enumerate(plane)}
            for row in found.table:
                label = row["label"] + last
                # by its index napari finds the row of a label
                rows.append({"index": label, **at, **row, "label": label})
            last += int(found.labels.max(initial=0))
        yield
    return labels, rows, failed


def widget() -> Any:
    """The form; what Run finds, in a thread, becomes a layer."""
    import magicgui
    from napari import Viewer, layers
    from napari.qt import threading
    from napari.utils import notifications

    @magicgui.magicgui(
        call_button="Run",
        model={"tooltip": "a name, a folder, a workdir or an MLflow URI"},
        threshold={"max": 1, "step": 0.05},
        diameter={"max": 10_000, "step": 1, "tooltip": "of an object, px"},
    )
    def form(
        viewer: Viewer,
        image: layers.Image,
        model: str = "nuclei",
        threshold: float = 0,
        diameter: float = 0,
    ) -> None:
        if image is None:
            return notifications.show_error("no image layer; open an image")
        pixels = image.data[0] if image.multiscale else image.data
        n = math.prod(pixels.shape[: -3 if image.rgb else -2])
        given = {"threshold": threshold, "diameter": diameter}
        given = {knob: value for knob, value in given.items() if value}
        made = {"image": image.name, "model": model, **given}
        about = {"name": image.name, "rgb": image.rgb, **given}
        about["pixel_size"] = _pixel_size(image)
        about["_progress"] = {"total": n if n > 1 else 0, "desc": image.name}
        worker = threading.create_worker(_tried, pixels, model, **about)
        worker.returned.connect(lambda end: _show(viewer, image, made, end))
        worker.finished.connect(lambda: setattr(form, "enabled", True))
        form.enabled = False
        return worker.start()

    # 0, which neither can be, means this
    form.threshold.native.setSpecialValueText("the model's")
    form.diameter.native.setSpecialValueText("estimated")
    return form


def _tried(*args: Any, **kwargs: Any) -> Generator[None, None, Found | str]:
    """As `segment`, but what a user can mend is returned, as text."""
    try:
        return (yield from segment(*args, **kwargs))
    except config.UserError as error:
        return str(error)


def _pixel_size(image: Any) -> tuple[float, float] | None:
    """(row, column) in micrometres, where the layer's units are lengths."""
    if not all(unit.is_compatible_with("um") for unit in image.units[-2:]):
        return None
    sides = zip(image.scale[-2:], image.units[-2:], strict=True)
    return tuple((abs(float(n)) * unit).m_as("um") for n, unit in sides)


def _show(viewer: Any, image: Any, made: dict, end: Found | str) -> None:
    """Adds a layer, or changes an earlier run's that nobody has painted on."""
    import pandas
    from napari.utils import notifications

    if isinstance(end, str):
        return notifications.show_error(end)
    labels, rows, failed = end
    if failed:
        plane, why = next(iter(failed.items()))
        n = f"{image.name}: {len(failed)} planes failed, the first"
        notifications.show_error(f"{n}, {plane}: {why}")
    place = ("scale", "translate", "rotate", "shear", "affine", "units")
    new = {name: getattr(image, name) for name in place}
    made["sum"] = zlib.crc32(labels)
    new |= {"features": pandas.DataFrame(rows), "metadata": {"seg": made}}
    for layer in viewer.layers:
        was = layer.metadata.get("seg")
        ours = isinstance(was, dict) and was.get("image") == made["image"]
        if ours and was["sum"] == zlib.crc32(layer.data):
            for name, value in (("data", labels), *new.items()):
                setattr(layer, name, value)
            return None
    return viewer.add_labels(labels, name=f"{image.name} objects", **new)
