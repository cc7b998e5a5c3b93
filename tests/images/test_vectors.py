"""Files of other programs, read by the libraries of their homes.

What they make of the polygons is compared with the label image.
"""

import json
import types

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from seg import config
from seg.data import layouts
from seg.images import vectors, write
from seg.predict import shapes

CLASSES = ("background", "cell", "bead")


def found_in(labels, kinds=("cell", "bead")):
    """Labels as a segmentation, the classes in turn."""
    runs = shapes.Runs.of(labels)
    areas = runs.areas(labels.max() + 1)
    table = [
        {
            "label": int(label), "class": kinds[label % len(kinds)],
            "area_px": int(areas[label]), "mean_intensity": 7.5,
            "eccentricity": 0.5, "solidity": np.nan, "probability": 0.75,
        }
        for label in np.flatnonzero(areas) if label
    ]  # fmt: skip
    return types.SimpleNamespace(labels=labels, table=table, source="a.png")


def drawn(seed=0, shape=(60, 80)):
    """Smooth objects: some with holes, of several parts, one pixel, cut."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 2.5)
    labels, n = ndimage.label(field > np.quantile(field, 0.6))
    labels[5:15, 60:75] = n + 1
    labels[8:11, 64:70] = 0  # a hole
    labels[30:33, 2:6] = labels[40:44, 3:5] = n + 2  # two parts
    labels[50, 50] = n + 3
    labels[55:59, 60:61] = n + 4  # one pixel wide
    return labels.astype(np.int32)


IMAGE = np.zeros((60, 80, 1), np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_geojson_is_valid_and_covers_the_same_pixels(tmp_path, seed):
    shapely = pytest.importorskip("shapely")
    labels = drawn(seed)
    vectors.write_geojson(tmp_path / "a.geojson", IMAGE, found_in(labels))
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    assert len(content["features"]) == len(np.unique(labels)) - 1
    middles = np.stack(np.indices(labels.shape), -1)[..., ::-1] + 0.5
    points = shapely.points(middles.reshape(-1, 2))
    for feature in content["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        about = feature["properties"]
        own = labels == int(about["name"])
        assert shape.area == own.sum() == about["measurements"]["Area px^2"]
        inside = shapely.contains(shape, points).reshape(labels.shape)
        np.testing.assert_array_equal(inside, own)
        assert about["objectType"] == "detection"
        assert about["classification"]["name"] in CLASSES
        assert "Solidity" not in about["measurements"]  # NaN is no JSON


def test_rois_come_back_with_their_pixels(tmp_path):
    roifile = pytest.importorskip("roifile")
    shapely = pytest.importorskip("shapely")
    labels = drawn()
    path = tmp_path / "a_rois.zip"
    for _ in range(2):  # written anew, not added to
        vectors.write_rois(path, IMAGE, found_in(labels))
    rois = roifile.roiread(path)
    assert [int(roi.name) for roi in rois] == list(range(1, labels.max() + 1))
    middles = np.stack(np.indices(labels.shape), -1)[..., ::-1] + 0.5
    points = shapely.points(middles.reshape(-1, 2))
    for roi in rois:
        inside = np.zeros(labels.shape, bool)
        for ring in roi.coordinates(multi=True):
            part = shapely.Polygon(ring)
            inside ^= shapely.contains(part, points).reshape(labels.shape)
        np.testing.assert_array_equal(inside, labels == int(roi.name))
        rows, cols = np.nonzero(inside)
        assert (roi.top, roi.left) == (rows.min(), cols.min())


# of pycocotools, which NumPy 2 asks for more
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_coco_loads_and_gives_the_masks_back(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    labels = drawn()
    found = found_in(labels)
    part = json.loads(json.dumps(vectors.coco_part(IMAGE, found)))
    nothing = vectors.coco_part(IMAGE, found_in(np.zeros_like(labels)))
    path = tmp_path / "coco.json"
    vectors.write_coco(path, [("a", part), ("empty", nothing)])
    loaded = coco.COCO(str(path))
    # of two images of one name, each has the one that is its own
    assert [i["file_name"] for i in loaded.dataset["images"]] == [
        "a.png", "empty.png"
    ]  # fmt: skip
    names = {c["id"]: c["name"] for c in loaded.loadCats(loaded.getCatIds())}
    assert sorted(names.values()) == list(names.values())
    annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[1]))
    assert len(annotations) == labels.max()
    assert not loaded.getAnnIds(imgIds=[2])
    for row, one in zip(found.table, annotations, strict=True):
        own = labels == row["label"]
        mask = loaded.annToMask(one).astype(bool)
        np.testing.assert_array_equal(mask, own)
        assert names[one["category_id"]] == row["class"]
        x, y, w, h = one["bbox"]
        rows, cols = np.nonzero(own)
        assert (x, y) == (cols.min(), rows.min())
        assert (w, h) == (np.ptp(cols) + 1, np.ptp(rows) + 1)


def labelme_mask(shape, size):
    """As `labelme.utils.shape_to_mask` draws a polygon: by Pillow."""
    mask = Image.new("L", size[::-1])
    xy = [tuple(point) for point in shape["points"]]
    ImageDraw.Draw(mask).polygon(xy, outline=1, fill=1)
    return np.asarray(mask) > 0


def test_labelme_fills_polygons_to_the_same_pixels(tmp_path):
    labels = drawn()
    vectors.write_labelme(tmp_path / "a.json", IMAGE, found_in(labels))
    content = json.loads((tmp_path / "a.json").read_text())
    kinds = [shape["shape_type"] for shape in content["shapes"]]
    assert kinds.count("polygon") > 10 and kinds.count("mask") >= 2
    for label, shape in enumerate(content["shapes"], 1):
        own = labels == label
        if shape["shape_type"] == "polygon":
            drawn_by_it = labelme_mask(shape, labels.shape)
            np.testing.assert_array_equal(drawn_by_it, own)


def test_corrected_labelme_files_are_read_for_training(tmp_path):
    labels = drawn()
    write.write_png(tmp_path / "a.png", np.zeros(labels.shape, np.uint8))
    found = found_in(labels)
    vectors.write_labelme(tmp_path / "a.json", IMAGE, found)
    knobs = {
        "data.layout": "labelme", "data.path": str(tmp_path),
        "classes": CLASSES, "model.n_classes": 3,
    }  # fmt: skip
    (sample,) = layouts.scan(config.replace(config.Config(), knobs))
    record = sample.load()
    pairs = np.unique(
        np.stack([record["labels"], labels]).reshape(2, -1), axis=1
    )
    assert pairs.shape[1] == labels.max() + 1  # the same but for the ids
    for row in found.table:
        own = labels == row["label"]
        assert (record["classes"][own] == CLASSES.index(row["class"])).all()


def test_run_lengths_are_kaggles(tmp_path):
    labels = drawn()
    rows = vectors.rle_rows(
        [
            ("a", vectors.rle_part(IMAGE, found_in(labels))),
            ("empty", vectors.rle_part(IMAGE, found_in(np.zeros_like(labels)))),
        ]
    )
    assert rows[-1] == {"ImageId": "empty", "EncodedPixels": ""}
    for label, row in enumerate(rows[:-1], 1):
        numbers = np.array(row["EncodedPixels"].split(), int)
        starts, lengths = numbers[::2] - 1, numbers[1::2]
        assert (starts[1:] > (starts + lengths)[:-1]).all()
        flat = np.zeros(labels.size, bool)
        for start, length in zip(starts, lengths, strict=True):
            flat[start : start + length] = True
        mask = flat.reshape(labels.shape, order="F")
        np.testing.assert_array_equal(mask, labels == label)
