"""Claims about objects in other programs' files: each comes back the same.

What `formats` writes is read here; what is malformed is named by file and
place. COCO's texts are pycocotools', ovals ImageJ's by roifile.
"""

import json
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from seg import config, images
from seg.data import annotations
from seg.images import formats, slide, write
from seg.predict import convert, measures, originals, segmentation


def blobs(seed=0, shape=(70, 90)):
    """Labels with holes, pieces, specks, and objects that touch."""
    draw = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(draw.random(shape), 1.5)
    labels = ndimage.label(smooth > 0.5, np.ones((3, 3)))[0]
    labels[40:52, 40:60] = labels.max() + 1
    labels[43:48, 45:50] = 0
    labels[40:52, 60:66] = labels.max() + 1  # touches
    labels[0, 0] = labels.max() + 1
    ids = np.unique(labels)
    return np.searchsorted(ids, labels).astype(np.int32)


def segmented(labels, names=None, source="a.png"):
    n = int(labels.max())
    names = names or [("cell", "bead")[i % 2] for i in range(n)]
    columns = {
        "image": np.full(n, "a", object),
        "label": np.arange(1, n + 1),
        "class": np.array(names, object),
        **measures.columns(measures.of_labels(labels, None, n), labels.shape),
    }
    return segmentation.Segmentation(
        (labels > 0).astype(np.uint8),
        labels,
        segmentation.Table(measures.rows(columns)),
        source=source,
    )


def written(name, folder, found):
    form = formats.FORMATS[name]
    path = folder / form.name.format(stem="a")
    if form.part:
        form.write(path, [("a", form.part(None, found))])
    else:
        form.write(path, None, found)
    return path


def read(path, shape=(70, 90), overlaps="error"):
    return [
        source.read(lambda name, said: said if said[0] else shape, overlaps)
        for source in annotations.read_all(path)
    ]


@pytest.mark.parametrize(
    "name", ["labels", "omezarr", "geojson", "roi", "labelme", "coco", "rle"]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_format_holds_comes_back(tmp_path, name, seed):
    labels = blobs(seed)
    found = segmented(labels)
    (one,) = read(written(name, tmp_path, found))
    assert pathlib.Path(one.image).stem.removesuffix("_rois") == "a"
    if name in ("geojson", "labelme", "coco"):
        of = dict(zip(one.labels[one.labels > 0], labels[labels > 0],
                      strict=True))  # fmt: skip
        for k, kind in enumerate(one.names, 1):
            assert kind == found.table[of[k] - 1]["class"]
    else:
        assert set(one.names) == {"object"}
    np.testing.assert_array_equal(one.labels > 0, labels > 0)
    pairs = np.unique(np.stack([one.labels, labels]).reshape(2, -1), axis=1)
    assert pairs.shape[1] == labels.max() + 1  # one to one


def test_run_lengths_as_text_are_those_of_pycocotools(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    labels = blobs(3)
    coded = [
        mask.encode(np.asfortranarray(labels == k, np.uint8))
        for k in range(1, labels.max() + 1)
    ]
    told = {
        "images": [{"id": 7, "file_name": "x/a.png", "height": 70,
                    "width": 90}],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 3,
             "segmentation": one | {"counts": one["counts"].decode()}}
            for i, one in enumerate(coded)
        ],
    }  # fmt: skip
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(told))
    (one,) = read(path, (1, 1))
    np.testing.assert_array_equal(one.labels, labels)
    assert one.image == "a.png" and set(one.names) == {"cell"}


def test_ovals_and_boxes_of_imagej(tmp_path):
    import roifile

    oval = roifile.ImagejRoi()
    oval.roitype = roifile.ROI_TYPE.OVAL
    oval.top, oval.left, oval.bottom, oval.right = 10, 20, 30, 50
    box = roifile.ImagejRoi()
    box.roitype = roifile.ROI_TYPE.RECT
    box.top, box.left, box.bottom, box.right = 40, 5, 44, 9
    path = tmp_path / "a_rois.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("1.roi", oval.tobytes())
        file.writestr("2.roi", box.tobytes())
    (one,) = read(path)
    row, col = np.mgrid[:70, :90] + 0.5
    expected = ((row - 20) / 10) ** 2 + ((col - 35) / 15) ** 2 <= 1
    np.testing.assert_array_equal(one.labels == 1, expected)
    assert one.labels[40:44, 5:9].min() == 2 and (one.labels == 2).sum() == 16


def rois(path, *points, **changed):
    """A zip of ImageJ's ROIs drawn by hand, with attributes changed."""
    import roifile

    with zipfile.ZipFile(path, "w") as file:
        for i, each in enumerate(points, 1):
            roi = roifile.ImagejRoi.frompoints(np.array(each))
            roi.roitype = roifile.ROI_TYPE.FREEHAND
            for name, value in changed.items():
                setattr(roi, name, value)
            file.writestr(f"{i}.roi", roi.tobytes())
    return path


def test_of_an_outline_by_hand_that_crosses_itself_each_loop_is_inside(
    tmp_path,
):
    crossed = [[10, 10], [30, 30], [30, 10], [10, 30]]
    over = [[80, 60], [95, 60], [95, 75], [80, 75]]
    path = rois(tmp_path / "RoiSet.zip", crossed, over)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("__MACOSX/._1.roi", b"of macOS")
    (one,) = read(path)
    assert (one.labels == 1).sum() == 2 * 10 * 10
    assert (one.labels[18, [12, 28]] == 1).all() and not one.labels[12, 20]
    assert (one.labels == 2).sum() == 10 * 10


@pytest.mark.parametrize(
    "changed, at, message",
    [
        ({}, 100, "outside of the image"),
        ({"rounded_rect_arc_size": 9}, 1, "rounded"),
    ],
)
def test_rois_that_cannot_be_filled_as_in_imagej_are_named(
    tmp_path, changed, at, message
):
    square = np.array([[0, 0], [9, 0], [9, 9], [0, 9]]) + at
    path = rois(tmp_path / "RoiSet.zip", square, **changed)
    with pytest.raises(images.ImageError, match=f"1.roi: .*{message}"):
        read(path)


@pytest.mark.parametrize("values", [(0, 1), (0, 255)])
def test_of_two_values_the_components_are_objects(tmp_path, values):
    mask = np.zeros((9, 9), np.uint8)
    mask[1:3, 1:3] = mask[5:8, 5:8] = values[1]
    np.save(tmp_path / "a.npy", mask)
    (one,) = read(tmp_path / "a.npy")
    assert one.labels.max() == 2 and one.names == ["object"] * 2


SQUARE = [[1, 1], [9, 1], [9, 9], [1, 9], [1, 1]]


def feature(*rings, kind="Polygon"):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": list(rings)},
        "properties": None,
    }


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.geojson", [feature(SQUARE), feature([[1, 1], [5, 5]])],
         "feature 2: a polygon of 2 points"),
        ("a.geojson", [feature([[1, 1], [9, 9], [9, 1], [1, 9]])],
         "feature 1: a polygon that crosses itself"),
        ("a.geojson", [feature([[1, 1], [900, 1], [9, 9]])],
         "feature 1: a point at x=900"),
        ("a.geojson", [feature(SQUARE), feature(SQUARE)],
         "feature 1 and feature 2 overlap; mend"),
        ("a.geojson", [feature([1, 1], kind="Point")], "feature 1 is a Point"),
        ("a.geojson", [feature([[1, "x"]])], "points are not pairs"),
        ("a.geojson", [{"geometry": None}], "feature 1 has no geometry"),
        ("a.geojson", "x", "neither LabelMe, COCO nor GeoJSON"),
        ("a.json", {"annotations": 3, "images": []}, "not as COCO has it"),
        ("a.json", {"images": [], "annotations": [
            {"id": 4, "image_id": 1, "segmentation": []}]},
         "annotation 4 is of image 1"),
        ("a.json", {"images": [{"id": 1, "file_name": "a.png"}],
                    "annotations": [{"id": 4, "image_id": 1,
                                     "segmentation": [[1, 1, 5]]}]},
         "annotation 4: a polygon of an odd number"),
        ("a.json", {"images": [{"id": 1, "file_name": "a.png"}],
                    "annotations": [
                        {"id": 4, "image_id": 1, "segmentation": {
                            "size": [7, 9], "counts": [1, 62]}}]},
         "is it of another image"),
        ("a.csv", "ImageId,EncodedPixels\na,1 2 3\n", "line 2: 3 numbers"),
        ("a.csv", "ImageId,EncodedPixels\na,1 x\n", "line 2: run lengths"),
        ("a.csv", "ImageId,EncodedPixels\na,6299 9\n", "outside the image"),
        ("a.csv", "ImageId,EncodedPixels\na,1 5\na,3 9\n",
         "line 2 and line 3 overlap"),
        ("a.csv", "image,label\na,1\n", "columns are not ImageId"),
        ("a.json", "{", "not JSON"),
        ("a_rois.zip", b"PK\3\4broken", "corrupt or truncated"),
        ("a.roi", b"Iout", "corrupt or truncated"),
        ("a.png", b"nothing", "not an image"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith("csv") or content == "{":
        path.write_text(content)
    else:
        path.write_text(json.dumps(content))
    with pytest.raises(images.ImageError) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_overlaps_are_settled_as_asked(tmp_path):
    inner = [[3, 3], [5, 3], [5, 5], [3, 5]]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature(SQUARE), feature(inner)]))
    (one,) = read(path, overlaps="smallest")
    assert (one.labels == 2).sum() == 4 or (one.labels == 1).sum() == 4
    (one,) = read(path, overlaps="first")
    assert one.labels.max() == 1 and (one.labels == 1).sum() == 64


def test_holes_are_cut(tmp_path):
    hole = [[3, 3], [5, 3], [5, 5], [3, 5]]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(feature(SQUARE, hole)))
    (one,) = read(path)
    assert (one.labels == 1).sum() == 60 and not one.labels[3:5, 3:5].any()


def test_a_zip_with_too_much_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(3):
            file.writestr(f"{i}.roi", bytes(2**27))
    with pytest.raises(images.ImageError, match="cut it into parts"):
        read(path)


def test_a_folder_of_results_stands_for_its_labels(tmp_path):
    for name in ("a_labels.tif", "a_overlay.png", "b_labels.tif", ".x.tif"):
        (tmp_path / name).touch()
    names = [path.name for path in convert.expand([str(tmp_path)])]
    assert names == ["a_labels.tif", "b_labels.tif"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json", {"images": [{"id": 1, "file_name": "a", "height": 1e999}],
                    "annotations": []}, "not as COCO has it"),
        ("a.csv", "ImageId,EncodedPixels\na,9223372036854775808 1\n",
         "line 2: run lengths"),
        ("a.csv", "ImageId,EncodedPixels\n"
         "a,4611686018427387905 4611686018427387904\n", "outside the image"),
        ("a.csv", "ImageId,EncodedPixels\na,1 3000 2 3000 3 3000\n",
         "runs that overlap"),
        ("a.json", {"shapes": [
            {"label": f"kind {i}", "points": [[1, 1], [3, 1], [3, 3]]}
            for i in range(300)]}, "300 classes, at most 254"),
        ("a.json", {"shapes": [], "imageHeight": 10**6, "imageWidth": 10**6},
         "megapixels"),
    ],
)  # fmt: skip
def test_what_would_break_or_swallow_memory_is_named(
    tmp_path, name, content, message
):
    path = tmp_path / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)
    with pytest.raises(images.ImageError) as caught:
        read(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_odd_properties_are_no_class(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({**feature(SQUARE), "properties": "x"}))
    (one,) = read(path)
    assert one.names == ["object"]


def test_a_photograph_is_no_label_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 200, (40, 40))
    np.save(tmp_path / "a.npy", noise)
    with pytest.raises(images.ImageError, match="no label image"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "name, stem",
    [("a.png", "a"), ("0.5mM_a", "0.5mM_a"), ("0.5mM.a.tif", "0.5mM.a")],
)
def test_only_suffixes_of_images_are_cut(name, stem):
    assert annotations.stem_of(name) == stem


def test_a_class_has_one_number_in_all_images(tmp_path):
    pictures = {"a": ["cell", "nucleus"], "b": ["nucleus"]}
    for image, names in pictures.items():
        shapes = [
            {"label": name, "points": [[1, y], [9, y], [9, y + 5], [1, y + 5]]}
            for name, y in zip(names, (1, 10), strict=False)
        ]
        about = {"shapes": shapes, "imagePath": f"{image}.png",
                 "imageHeight": 20, "imageWidth": 20}  # fmt: skip
        (tmp_path / f"{image}.json").write_text(json.dumps(about))
    outcome = convert.run(
        convert.expand([str(tmp_path)]),
        tmp_path / "out",
        ["classes", "csv"],
        originals.Images(""),
    )
    assert outcome.n_done == 2 and not outcome.failures
    a, b = (
        np.asarray(Image.open(tmp_path / f"out/{name}_classes.png"))
        for name in "ab"
    )
    assert set(np.unique(a)) == {0, 1, 2} and set(np.unique(b)) == {0, 2}


def test_one_bad_image_of_a_file_costs_itself_alone(tmp_path):
    square = [1, 1, 9, 1, 9, 9, 1, 9]
    told = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 20, "width": 20}
            for i in (1, 2, 3)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1,
             "segmentation": [[900, 1, 5, 5, 1, 1] if i == 2 else square]}
            for i in (1, 2, 3)
        ],
    }  # fmt: skip
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(told))
    out = tmp_path / "out"
    outcome = convert.run(
        [path], out, ["labels", "coco", "csv"], originals.Images("")
    )
    assert outcome.n_done == 2 and len(outcome.failures) == 1
    assert {p.name for p in out.glob("*.tif")} == {
        "1_labels.tif", "3_labels.tif"
    }  # fmt: skip
    again = json.loads((out / "coco.json").read_text())
    assert [one["file_name"] for one in again["images"]] == ["1.png", "3.png"]


def test_measures_come_in_micrometres_where_the_image_says_so(tmp_path):
    labels = blobs()
    found = segmented(labels)
    written("labels", tmp_path, found)
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(
        folder / "a.tif", np.zeros(labels.shape, np.uint8),
        resolution=(20000, 20000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    outcome = convert.run(
        [tmp_path / "a_labels.tif"], tmp_path / "out", ["csv"],
        originals.Images(str(folder)),
    )  # fmt: skip
    assert outcome.n_done == 1
    for row in formats.read_table(tmp_path / "out/objects.csv"):
        assert row["area_um2"] == pytest.approx(row["area_px"] / 4)


def test_labels_of_planes_find_their_stack(tmp_path):
    labels = blobs()
    written("labels", tmp_path, segmented(labels))
    (tmp_path / "a_labels.tif").rename(tmp_path / "a_t001_z002_labels.tif")
    folder = tmp_path / "images"
    folder.mkdir()
    stack = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1)
    tifffile.imwrite(
        folder / "a.tif",
        np.broadcast_to(stack, (2, 3, *labels.shape)),
        imagej=True,
        metadata={"axes": "TZYX"},
    )
    outcome = convert.run(
        [tmp_path / "a_t001_z002_labels.tif"], tmp_path / "out", ["csv"],
        originals.Images(str(folder)),
    )  # fmt: skip
    assert not outcome.failures
    for row in formats.read_table(tmp_path / "out/objects.csv"):
        assert row["image"] == "a_t001_z002"
        assert row["mean_intensity"] == 5


def test_of_a_folder_of_results_what_holds_no_objects_is_left(tmp_path):
    for name in ("a_rois.zip", "objects.csv", "a_overlay.png", "images.csv",
                 "failures.csv", "a_classes.png", "b.geojson"):  # fmt: skip
        (tmp_path / name).touch()
    names = {path.name for path in convert.expand([str(tmp_path)])}
    assert names == {"a_rois.zip", "b.geojson"}


SPARSE = np.array([0, 1, 2, 3, 4, 5, 7, 9, 70, 65_540])


@pytest.fixture
def sparse(tmp_path):
    """A label image of ids with gaps; its path."""
    labels = np.zeros((20, 50), np.int32)
    for k, i in enumerate(SPARSE[1:]):
        labels[3:12, 5 * k + 2 : 5 * k + 6] = i
    write.write_labels(tmp_path / "a_labels.tif", labels)
    return tmp_path / "a_labels.tif"


def test_ids_of_a_label_image_stay(sparse, caplog):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = sparse.parent / "out"
    forms = ["labels", "omezarr", "csv", "roi", "geojson", "parquet"]
    outcome = convert.run([sparse], out, forms, originals.Images(""))
    assert outcome.n_done == 1 and not caplog.records
    expected = tifffile.imread(sparse)
    found = tifffile.imread(out / "a_labels.tif")
    np.testing.assert_array_equal(found, expected)
    with slide.open_slide(out / "a.zarr") as opened:
        np.testing.assert_array_equal(opened.rows(0, 20)[..., 0], expected)
    rows = formats.read_table(out / "objects.csv")
    for row in rows:  # and each row is that object's
        assert expected[int(row["row"]), int(row["col"])] == row["label"]
    told = json.loads((out / "a.geojson").read_text())["features"]
    of_rois = zipfile.ZipFile(out / "a_rois.zip").namelist()
    for ids in (
        [row["label"] for row in rows],
        parquet.read_table(out / "objects.parquet")["label"].to_pylist(),
        [int(one["properties"]["name"]) for one in told],
        [int(name.removesuffix(".roi")) for name in of_rois],
    ):
        assert ids == SPARSE[1:].tolist()


def test_where_ids_cannot_stay_it_is_said_once(sparse, caplog):
    more = sparse.with_name("b_labels.tif")
    shutil.copy(sparse, more)
    forms = ["labels", "coco", "rle"]
    convert.run([sparse, more], sparse.parent / "out", forms,
                originals.Images(""))  # fmt: skip
    (said,) = caplog.messages
    assert "not kept in coco and rle" in said


def test_ids_too_large_for_a_float_are_renumbered_and_it_is_said(
    tmp_path, caplog
):
    labels = np.zeros((9, 9), np.uint32)
    labels[1:3], labels[5:7] = 2**24 + 1, 5
    tifffile.imwrite(tmp_path / "a_labels.tif", labels)
    out = tmp_path / "out"
    convert.run([tmp_path / "a_labels.tif"], out, ["labels"],
                originals.Images(""))  # fmt: skip
    found = tifffile.imread(out / "a_labels.tif")
    assert found[1, 1] == 2 and found[5, 5] == 1
    assert "renumbered" in caplog.text


@pytest.fixture
def fiji(tmp_path):
    """A folder of one image and what Fiji calls the ROIs of it."""
    square = [[10, 10], [20, 10], [20, 20], [10, 20]]
    rois(tmp_path / "RoiSet.zip", square)
    tifffile.imwrite(tmp_path / "raw.tif", np.zeros((70, 90), np.uint8))
    return tmp_path


@pytest.mark.parametrize("place", ["", ".", "raw.tif"])
def test_rois_of_fijis_name_are_of_the_only_image(fiji, place):
    inputs = [fiji / "RoiSet.zip"]
    place = str(fiji / place) if place else ""
    # a result of before is no image
    shutil.copy(fiji / "raw.tif", fiji / "raw_labels.tif")
    outcome = convert.run(
        inputs, fiji / "out", ["labels"], originals.Images(place, inputs)
    )
    assert not outcome.failures
    found = tifffile.imread(fiji / "out/raw_labels.tif")
    assert found.shape == (70, 90) and found.sum() == 100


@pytest.mark.parametrize("place", ["", "."])
def test_of_several_images_none_is_guessed(fiji, place):
    shutil.copy(fiji / "raw.tif", fiji / "more.tif")
    inputs = [fiji / "RoiSet.zip"]
    outcome = convert.run(
        inputs,
        fiji / "out",
        ["labels"],
        originals.Images(str(fiji / place) if place else "", inputs),
    )
    ((_, reason),) = outcome.failures
    assert "--images=FILE" in reason and "_rois.zip" in reason


def test_rois_called_after_another_image_are_not_of_the_only_one(fiji):
    inputs = [(fiji / "RoiSet.zip").rename(fiji / "other_rois.zip")]
    outcome = convert.run(
        inputs, fiji / "out", ["labels"], originals.Images(str(fiji), inputs)
    )
    assert "the image 'other' is needed" in outcome.failures[0][1]


def test_one_image_cannot_be_that_of_several_files(fiji):
    inputs = [fiji / "RoiSet.zip", fiji / "more.zip"]
    with pytest.raises(config.UserError, match="one image for 2 files"):
        originals.Images(str(fiji / "raw.tif"), inputs)


def test_labels_are_not_taken_for_their_own_image(tmp_path):
    labels = blobs()
    write.write_labels(tmp_path / "cells.tif", labels)
    inputs = [tmp_path / "cells.tif"]
    tifffile.imwrite(tmp_path / "raw.tif", np.full(labels.shape, 7, np.uint8))
    convert.run(
        inputs, tmp_path / "out", ["csv"],
        originals.Images(str(tmp_path), inputs),
    )  # fmt: skip
    rows = formats.read_table(tmp_path / "out/objects.csv")
    assert {row["mean_intensity"] for row in rows} == {7}
