"""Outlines of other programs are trained on as label images would be."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from seg import config as config_lib
from seg import images
from seg.data import layouts
from seg.images import formats
from tests.data import test_annotations as cases

SHAPE = 70, 90
NAMES = "a", "plate.1"  # a dot is no suffix
RING = [10, 10, 30, 10, 30, 30, 10, 30]


def of(path, *classes, **changes):
    classes = ("background", *(classes or ("cell", "bead")))
    n = 1 if len(classes) == 2 else len(classes)
    knobs = {
        "data.layout": "outlines", "data.path": str(path), "classes": classes,
        "model.n_classes": n,
    }  # fmt: skip
    return config_lib.replace(config_lib.Config(), knobs | changes)


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, SHAPE, np.uint8)
    Image.fromarray(pixels).save(path)


def coco(path, **changes):
    """A file of one square in a.png and of nothing in b.png."""
    told = {
        "images": [
            {"id": i, "file_name": name, "height": 70, "width": 90}
            for i, name in enumerate(("a.png", "b.png"))
        ],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 3, "segmentation": [RING]}
        ],
    }
    path.write_text(json.dumps(told | changes))


@pytest.mark.parametrize("form", ["coco", "geojson", "roi", "rle"])
def test_what_predict_writes_is_trained_on(tmp_path, form):
    """Both classes where the format has them, objects in all."""
    parts, truth = [], {}
    how = formats.FORMATS[form]
    for seed, name in enumerate(NAMES):
        picture(tmp_path / "images" / f"{name}.png", seed)
        truth[name] = cases.blobs(seed, SHAPE)
        found = cases.segmented(truth[name], source=f"{name}.png")
        if how.part:
            parts.append((name, how.part(None, found)))
        else:
            path = tmp_path / "images" / how.name.format(stem=name)
            how.write(path, None, found)
    if how.part:
        how.write(tmp_path / how.name, parts)
    classes = ("cell", "bead") if form in ("coco", "geojson") else ("cell",)
    config = of(tmp_path, *classes)
    assert layouts.verify(config) == []
    assert layouts.guess(str(tmp_path)) == "outlines"
    samples = layouts.scan(config)
    assert [sample.id for sample in samples] == sorted(truth)
    for sample in samples:
        labels, record = truth[sample.id], sample.load()
        np.testing.assert_array_equal(record["labels"] > 0, labels > 0)
        both = np.stack([record["labels"], labels]).reshape(2, -1)
        assert np.unique(both, axis=1).shape[1] == labels.max() + 1
        kinds = 1 + (labels + 1) % 2 if len(classes) == 2 else 1
        np.testing.assert_array_equal(
            record["classes"], np.where(labels > 0, kinds, 0)
        )


def test_coco_in_its_own_folders(tmp_path):
    """Roboflow has a file beside each split, COCO a folder of them."""
    for split in ("train", "valid"):
        for name in ("a.png", "b.png"):
            picture(tmp_path / split / name, len(split))
        coco(tmp_path / split / "_annotations.coco.json")
    found = {s.id: s.split for s in layouts.scan(of(tmp_path))}
    assert found == {
        "train/a": "train", "train/b": "train", "val/a": "val", "val/b": "val",
    }  # fmt: skip
    other = tmp_path / "other"
    for name in ("a.png", "b.png"):
        picture(other / "train2017" / name)
    (other / "annotations").mkdir()
    coco(other / "annotations/instances_train2017.json")
    one, two = layouts.scan(of(other))
    assert one.load()["labels"].sum() == 20 * 20
    assert not two.load()["labels"].any()


@pytest.mark.parametrize(
    "named",
    [
        "images/plate{}/a b.png", "plate{}/a b.png",
        "..\\images\\plate{}\\a b.png", "https://host/data/plate{}/a b.png",
        "/home/x/images/plate{}/a b.png",
    ],
)  # fmt: skip
def test_folders_in_coco_tell_equal_names_apart(tmp_path, named):
    for k in (1, 2):
        picture(tmp_path / f"images/plate{k}/a b.png", k)
    (tmp_path / "annotations").mkdir()
    told = [
        {"id": k, "file_name": named.format(k + 1), "height": 70, "width": 90}
        for k in (0, 1)
    ]
    coco(tmp_path / "annotations/all.json", images=told)
    one, two = layouts.scan(of(tmp_path))
    assert (one.id, two.id) == ("plate1/a b", "plate2/a b")
    assert one.load()["labels"].any() and not two.load()["labels"].any()


def test_a_zip_is_read_in_place(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    coco(tmp_path / "c.json")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for name in ("a.png", "b.png", "c.json"):
            file.write(tmp_path / name, name)
    one, _ = layouts.scan(of(tmp_path / "all.zip"))
    assert one.load()["classes"].max() == 1


def test_a_set_of_rois_is_of_the_one_image_beside_it(tmp_path):
    for seed, name in enumerate(("one", "two")):
        picture(tmp_path / name / "cells.png", seed)
        found = cases.segmented(cases.blobs(seed, SHAPE))
        formats.FORMATS["roi"].write(
            tmp_path / name / "RoiSet.zip", None, found
        )
    one, two = layouts.scan(of(tmp_path, "cell"))
    assert (one.id, two.id) == ("one/cells", "two/cells")
    np.testing.assert_array_equal(
        two.load()["labels"] > 0, cases.blobs(1, SHAPE) > 0
    )
    picture(tmp_path / "two/other.png", 3)
    said = [str(defect) for defect in layouts.verify(of(tmp_path, "cell"))]
    assert said[0].startswith("two/RoiSet.zip: its image RoiSet is missing")


def test_a_crowd_is_not_annotated(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    crowd = {
        "id": 2, "image_id": 0, "category_id": 3, "iscrowd": 1,
        "segmentation": [[40, 40, 60, 40, 60, 50, 40, 50]],
    }  # fmt: skip
    coco(tmp_path / "c.json", annotations=[crowd])
    record = layouts.scan(of(tmp_path))[0].load()
    assert (record["classes"] == 255).sum() == 20 * 10
    assert not record["labels"].any()


def test_one_class_is_what_nameless_outlines_are(tmp_path):
    picture(tmp_path / "a.png")
    feature = {"type": "Feature", "geometry": {
        "type": "Polygon",
        "coordinates": [[[10, 10], [30, 10], [30, 30], [10, 30]]],
    }}  # fmt: skip
    (tmp_path / "a.geojson").write_text(json.dumps([feature]))
    record = layouts.scan(of(tmp_path, "nucleus"))[0].load()
    assert (record["classes"] == 1).sum() == 400
    assert layouts.drawn_names(of(tmp_path)) == ["object"]
    with pytest.raises(images.ImageError, match="add 'object=CLASS' to"):
        layouts.scan(of(tmp_path))[0].load()
    config = of(tmp_path, **{"data.aliases": ("object=bead",)})
    assert layouts.scan(config)[0].load()["classes"].max() == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": []}, "c.json: annotation 1 is of image 0, which is not"),
        (
            {"categories": [{"id": 3, "name": "cel"}]},
            "c.json: annotation 1: unknown class 'cel'; did you mean cell; "
            "name it so, add 'cel=CLASS' to data.aliases",
        ),
        (
            {"images": [{"id": 0, "file_name": "a.png", "height": 7,
                         "width": 90}]},
            "c.json: drawn on an image of 7x90 px, a.png has 70x90",
        ),
        (
            {"images": [{"id": 0, "file_name": "x/nothing.png"}]},
            "c.json: its image x/nothing.png is missing; put it beside",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 0, "category_id": 3,
                              "bbox": [1, 1, 5, 5]}]},
            "c.json: annotation 5 has no segmentation; boxes alone",
        ),
        (
            {"annotations": 2 * [{"id": 5, "image_id": 0, "category_id": 3,
                                  "segmentation": [RING]}]},
            "c.json: its objects overlap in 400 px; mend them, or set",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 0, "category_id": 3,
                              "segmentation": [[1, 1, 1.1, 1, 1, 1.1]]}]},
            "c.json: annotation 5: no middle of a pixel is inside",
        ),
        ({"shapes": []}, "c.json: of LabelMe; give data.layout=labelme"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, said):
    picture(tmp_path / "a.png")
    coco(tmp_path / "c.json", **change)
    found = [str(defect) for defect in layouts.verify(of(tmp_path))]
    assert any(line.startswith(said) for line in found), found
    with pytest.raises((images.ImageError, config_lib.UserError)):
        for sample in layouts.scan(of(tmp_path)):
            sample.load()


def test_other_tables_and_zips_are_passed_over_but_not_images(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    coco(tmp_path / "c.json")
    (tmp_path / "results.csv").write_text("image,area\na,3\n")
    with zipfile.ZipFile(tmp_path / "paper.zip", "w") as file:
        file.writestr("figure.pdf", b"")
    assert layouts.verify(of(tmp_path)) == []
    picture(tmp_path / "new.png", 5)
    coco(tmp_path / "d.json")  # of the same images once more
    assert {str(one) for one in layouts.verify(of(tmp_path))} == {
        "d.json: of the image a.png, as c.json is; keep one of the two",
        "d.json: of the image b.png, as c.json is; keep one of the two",
        "new.png: an image without annotations; label it, be it with no "
        "shape, or remove it",
    }
