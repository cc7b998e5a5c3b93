"""GeoJSON, as QuPath writes it: a feature an object, (x, y) in pixels."""

from typing import Any

from seg import images
from seg.data import masks, shapes
from seg.data.annotations import drawn


def objects(found: Any, name: str) -> list[drawn.Object]:
    """The objects of parsed JSON, of the file `name`. Raises ImageError."""
    features = found
    if isinstance(found, dict):
        features = found.get("features", [found])
    if not isinstance(features, list):
        raise images.ImageError(
            f"{name}: neither LabelMe, COCO nor GeoJSON; give another file"
        )
    return [_object(one, i, name) for i, one in enumerate(features, 1)]


def _object(feature: Any, number: int, name: str) -> drawn.Object:
    where = f"feature {number}"
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if not isinstance(geometry, dict):
        raise images.ImageError(
            f"{name}: {where} has no geometry; is this GeoJSON?"
        )
    kind, parts = geometry.get("type"), geometry.get("coordinates")
    if kind == "Polygon":
        parts = [parts]
    elif kind != "MultiPolygon":
        raise images.ImageError(
            f"{name}: {where} is a {kind}, which has no area; draw a polygon"
        )
    if not isinstance(parts, list) or not all(
        isinstance(part, list) and part for part in parts
    ):
        raise images.ImageError(
            f"{name}: {where} has no coordinates; draw it again"
        )
    known = [drawn.rings(part, f"{name}: {where}") for part in parts]

    def draw(shape: drawn.Size) -> masks.Region:
        return shapes.union(
            [drawn.polygon(one, rest, shape) for one, *rest in known]
        )

    return drawn.Object(where, _class(feature), draw)


def _class(feature: dict[str, Any]) -> str:
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        return "object"
    found = properties.get("classification")
    if isinstance(found, dict):
        found = found.get("name")
    return str(found or "object")
