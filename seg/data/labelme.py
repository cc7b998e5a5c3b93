"""LabelMe's JSON files: an image's shapes by name -> classes and objects.

`parse` checks the form of a file, `truth` draws it. Of the shapes that LabelMe
knows, polygons, rectangles, circles, points (as discs, see `shapes.DISC`) and
masks become objects; lines have no area and are refused. The name of a shape
is a class of the config, or an alias of one (data.aliases). Two names mean
what they mean in LabelMe's own converters: `_background_` is background, as
the config's first class is, and `__ignore__` is not annotated. Both are drawn
on top of all objects: so a hole is cut.

Shapes of one name with an equal `group_id` are one object. Where objects
overlap, data.overlaps decides, not the order of drawing. Coordinates are those
of the upright image (see `shapes` for which pixels are inside).
"""

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seg import config as config_lib
from seg import images
from seg.data import masks, shapes
from seg.images import read

_DRAWN: dict[str, Callable[..., masks.Region]] = {
    "polygon": shapes.polygon,
    "rectangle": shapes.rectangle,
    "circle": shapes.circle,
    "point": shapes.dots,
    "points": shapes.dots,
    "line": shapes.line,
    "linestrip": shapes.line,
}
_KINDS = (*_DRAWN, "mask")
SPECIAL = {"_background_": 0, "__ignore__": masks.UNKNOWN}


class Shape(NamedTuple):
    """One shape: points float64 [N, 2] of (x, y); mask a PNG, or empty."""

    label: str
    kind: str
    points: np.ndarray
    group: Any
    mask: bytes


class Annotation(NamedTuple):
    """What a file says.

    image_path: of the image, as written. image: the embedded image file, or
        empty. size: (H, W) of the image; 0 where it is not said.
    """

    shapes: list[Shape]
    image_path: str
    image: bytes
    size: tuple[int, int]


class FormError(ValueError):
    """A file that is none of LabelMe's: "what; remedy"."""


def classes_of(config: config_lib.Config) -> dict[str, int]:
    """The class id of each name that a shape may have.

    Raises ConfigError for an alias that means nothing.
    """
    ids = SPECIAL | {name: i for i, name in enumerate(config.classes)}
    if config.data.layout == "outlines" and len(config.classes) == 2:
        ids.setdefault("object", 1)  # what most formats call all of them
    aliases = {}
    for alias in config.data.aliases:
        name, _, target = (part.strip() for part in alias.partition("="))
        if not name or not target:
            raise config_lib.ConfigError(
                f"data.aliases: {alias!r}; write name=class, as "
                "erythrocyte=cell"
            )
        if target not in ids:
            raise config_lib.ConfigError(
                "data.aliases: " + config_lib.unknown("class", target, ids)
            )
        if ids.get(name, aliases.get(name, ids[target])) != ids[target]:
            raise config_lib.ConfigError(
                f"data.aliases: {name!r} would mean two classes; leave one"
            )
        aliases[name] = ids[target]
    return ids | aliases


def parse(content: bytes) -> Annotation:
    """The annotation in the bytes of a JSON file. Raises FormError."""
    try:
        text = content.decode("utf-8-sig")
        found = json.loads(text)
        if "\\ud" in text.lower():  # halves of letters cannot be printed
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        detail = " ".join(str(error).split())[:80]
        raise FormError(f"not JSON ({detail}); save it again") from error
    listed = found.get("shapes") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise FormError(
            "not of LabelMe (it has no list of shapes); remove it from here"
        )
    return Annotation(
        [_shape(entry, i) for i, entry in enumerate(listed, 1)],
        str(found.get("imagePath") or ""),
        _decoded(found.get("imageData"), "imageData"),
        (_side(found, "imageHeight"), _side(found, "imageWidth")),
    )


def _side(found: dict[str, Any], name: str) -> int:
    """px; 0 where it is not said."""
    value = found.get(name) or 0
    # some programs write 40.0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise FormError(f"its {name} is no whole number; save it again")
    return value


def _shape(entry: Any, number: int) -> Shape:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        raise FormError(f"shape {number} has no label; name it, or remove it")
    where = f"shape {number} ({entry['label']})"
    try:
        points = np.array(entry.get("points", []), np.float64).reshape(-1, 2)
    except (ValueError, TypeError, OverflowError) as error:
        raise FormError(
            f"{where}: its points are not pairs of numbers; draw it again"
        ) from error
    if not np.isfinite(points).all():
        raise FormError(
            f"{where}: its points are NaN or infinite; draw it again"
        )
    # files of old versions only have polygons, and do not say so
    kind = entry.get("shape_type") or "polygon"
    mask = _decoded(entry.get("mask"), f"the mask of {where}")
    group = entry.get("group_id")
    if isinstance(group, list | dict):
        raise FormError(f"{where}: its group_id is no number; give it one")
    return Shape(entry["label"], str(kind), points, group, mask)


def _decoded(text: Any, what: str) -> bytes:
    if not text:
        return b""
    try:
        # some programs write a data URL
        return base64.b64decode(str(text).rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormError(
            f"{what} is not base64 ({error}); save it again"
        ) from error


def truth(
    annotation: Annotation,
    shape: tuple[int, int],
    names: dict[str, int],
    policy: str,
) -> tuple[masks.Truth, list[str]]:
    """Classes and objects of an image of this (H, W), and what is wrong.

    names: the class of each name, of `classes_of`. policy: data.overlaps.

    The second has a line "what; remedy" for each thing that is wrong; only
    where it is empty does the truth hold.
    """
    wrong: list[str] = []
    objects: dict[Any, list[masks.Region]] = {}
    for number, found in enumerate(annotation.shapes, 1):
        where = f"shape {number} ({found.label})"
        if found.label not in names:
            unknown = config_lib.unknown("class", found.label, names)
            wrong.append(
                f"shape {number}: {unknown.rstrip('?')}; name it so, add "
                f"'{found.label}=CLASS' to data.aliases, or add the class"
            )
            continue
        try:
            region = _drawn(found, shape)
        except (shapes.ShapeError, images.ImageError) as error:
            wrong.append(f"{where}: {error}")
            continue
        if not region.inside.any():
            wrong.append(
                f"{where}: no middle of a pixel is inside; draw it larger, or "
                "remove it"
            )
        key = number if found.group is None else str(found.group)
        objects.setdefault((found.label, key), []).append(region)
    drawn = [
        (names[label], shapes.union(regions))
        for (label, _), regions in objects.items()
    ]
    found, overlap = masks.painted(drawn, shape, policy)
    return found, [*wrong, *overlap]


def _drawn(found: Shape, shape: tuple[int, int]) -> masks.Region:
    if found.kind == "mask":
        if not found.mask:
            raise shapes.ShapeError("a mask without pixels; redraw it")
        pixels = read.read_mask(found.mask, name="its mask")
        return shapes.pasted(pixels, found.points, shape)
    if found.kind not in _DRAWN:
        raise shapes.ShapeError(
            config_lib.unknown("kind of shape", found.kind, _KINDS).rstrip("?")
            + "; draw a polygon"
        )
    return _DRAWN[found.kind](found.points, shape)
