"""LabelMe's files become classes and objects, or name what is wrong."""

import base64
import io
import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import measure

from seg import config as config_lib
from seg import images
from seg.data import dataset, labelme, layouts, synthetic

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
CLASSES = ("background", "bead", "cell")


def encoded(array, form="PNG"):
    file = io.BytesIO()
    if form == "TIFF":
        tifffile.imwrite(file, array)
    else:
        Image.fromarray(array).save(file, form)
    return file.getvalue()


def text(content):
    return base64.b64encode(content).decode()


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}


def box(label, top, left, side, **more):
    """A square as a rectangle."""
    corners = [[left, top], [left + side, top + side]]
    return shape(label, corners, "rectangle", **more)


def annotation(*found, path="a.png", **more):
    about = {"version": "5.5.0", "flags": {}, "shapes": list(found)}
    about |= {"imagePath": path, "imageData": None}
    about |= {"imageHeight": 40, "imageWidth": 50}
    return json.dumps(about | more).encode()


def write(root, content):
    for name, bytes_ in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes_)


def of(root, **changes):
    knobs = {"data.layout": "labelme", "data.path": str(root)}
    knobs |= {"classes": CLASSES, "model.n_classes": 3}
    changes = {key.replace("__", "."): v for key, v in changes.items()}
    return config_lib.replace(config_lib.Config(), knobs | changes)


def loaded(root, *found, **changes):
    write(root, {"a.png": encoded(IMAGE), "a.json": annotation(*found)})
    (sample,) = layouts.scan(of(root, **changes))
    return sample.load()


def test_every_kind_of_shape_is_drawn_with_its_class(tmp_path):
    patch = np.array([[0, 1, 1], [1, 1, 1]], np.uint8)
    record = loaded(
        tmp_path,
        shape("cell", [[2, 2], [12, 2], [12, 9], [2, 9]]),
        box("bead", 20, 4, 6),
        shape("bead", [[30, 10], [30, 16]], "circle"),
        shape("cell", [[44.5, 30.5]], "point"),
        shape("cell", [[40, 2], [42, 3]], "mask", mask=text(encoded(patch))),
    )
    classes, labels = record["classes"], record["labels"]
    assert record["image"].shape == (40, 50, 1) and classes.dtype == np.uint8
    assert labels.dtype == np.int32 and labels.max() == 5
    expected = [(2, 10 * 7), (1, 36), (1, None), (2, None), (2, 5)]
    for i, (of_class, area) in enumerate(expected, 1):
        assert (classes[labels == i] == of_class).all()
        assert area is None or (labels == i).sum() == area
    assert (labels == 3).sum() == pytest.approx(np.pi * 36, abs=6)
    assert labels[30, 44] == 4 and labels[2, 40] == 0 and labels[3, 40] == 5
    np.testing.assert_array_equal(classes > 0, labels > 0)


@pytest.mark.parametrize("kind", ["polygon", "mask"])
def test_labels_to_json_and_back_are_the_same(tmp_path, kind):
    """Outlines at half a pixel (`measure.find_contours`): IoU 1 of each."""
    spec = config_lib.Synthetic(height=40, width=50, n_objects=12, diameter=9)
    drawn = synthetic.draw(spec, 0)["labels"]
    found = []
    for i in range(1, drawn.max() + 1):
        inside = drawn == i
        if kind == "polygon":
            outlines = measure.find_contours(np.pad(inside, 1), 0.5)
            for line in outlines:
                at = line[:-1, ::-1] - 0.5
                found.append(shape("cell", at.tolist(), group_id=i))
        else:
            rows, cols = np.nonzero(inside)
            low, high = (rows.min(), cols.min()), (rows.max(), cols.max())
            part = inside[low[0] : high[0] + 1, low[1] : high[1] + 1]
            corners = [[int(p[1]), int(p[0])] for p in (low, high)]
            png = text(encoded(part.astype(np.uint8)))
            found.append(shape("cell", corners, "mask", mask=png))
    record = loaded(tmp_path, *found)
    np.testing.assert_array_equal(record["labels"], drawn)
    np.testing.assert_array_equal(record["classes"], 2 * (drawn > 0))


def test_a_group_is_one_object_of_one_class(tmp_path):
    record = loaded(
        tmp_path,
        box("cell", 1, 1, 4, group_id=7),
        box("cell", 20, 30, 4, group_id=7),
        box("bead", 10, 10, 4, group_id=7),
        box("cell", 30, 10, 4),
        box("cell", 3, 3, 4, group_id=7),  # within a group nothing overlaps
    )
    labels = record["labels"]
    assert labels.max() == 3 and record["overlap_px"] == 0
    assert labels[2, 2] == labels[22, 32] == labels[6, 6]
    assert len({labels[2, 2], labels[11, 11], labels[31, 11]}) == 3


def test_overlaps_follow_the_policy_and_not_the_order_of_drawing(tmp_path):
    found = box("cell", 2, 2, 20), box("bead", 18, 18, 8)
    with pytest.raises(images.ImageError, match=r"overlap in 16 px.*overlaps"):
        loaded(tmp_path, *found)
    for policy, winner in (("first", 2), ("smallest", 1)):
        record = loaded(tmp_path, *found, data__overlaps=policy)
        assert record["classes"][20, 20] == winner
        assert record["overlap_px"] == 16
    record = loaded(tmp_path, *found[::-1], data__overlaps="smallest")
    assert record["classes"][20, 20] == 1
    hidden = box("cell", 2, 2, 20), box("bead", 5, 5, 3), box("bead", 30, 9, 3)
    record = loaded(tmp_path, *hidden, data__overlaps="first")
    assert record["labels"].max() == 2 and record["classes"][31, 10] == 1


def test_background_cuts_holes_and_what_is_ignored_is_not_annotated(tmp_path):
    record = loaded(
        tmp_path,
        box("_background_", 5, 5, 4),
        box("cell", 2, 2, 12),
        box("background", 10, 10, 2),
        box("__ignore__", 12, 2, 10),
    )
    classes, labels = record["classes"], record["labels"]
    assert not classes[6, 6] and not labels[6, 6] and not classes[11, 11]
    assert (classes[12:22, 2:12] == 255).all() and not labels[13, 3]
    assert classes[3, 3] == 2 and record["overlap_px"] == 0


def test_aliases_name_classes_and_are_checked(tmp_path):
    found = box("erythrocyte", 2, 2, 5), box("dust", 20, 20, 5)
    aliases = ("erythrocyte = cell", "dust=__ignore__")
    record = loaded(tmp_path, *found, data__aliases=aliases)
    assert record["classes"][3, 3] == 2 and record["classes"][21, 21] == 255
    for wrong, what in (
        ("cell", "write name=class"),
        ("a=cel", "did you mean cell"),
        ("bead=cell", "two classes"),
    ):
        with pytest.raises(config_lib.ConfigError, match=what) as caught:
            labelme.classes_of(of(tmp_path, data__aliases=(wrong,)))
        assert "data.aliases" in str(caught.value)
    twice = of(tmp_path, data__aliases=("a=cell", "a=bead"))
    with pytest.raises(config_lib.ConfigError, match="'a' would mean two"):
        labelme.classes_of(twice)


@pytest.mark.parametrize(
    ("image", "file", "path"),
    [
        ("a.png", "a.json", "a.png"),
        ("a.JPG", "a.json", "a.JPG"),
        ("images/a.tif", "labels/a.json", "..\\images\\a.tif"),
        ("images/a.tif", "labels/a.json", "../images/a.tif"),
        ("img/a.png", "ann/a.json", "a.png"),
        ("a.png", "a.json", "C:\\Users\\me\\a.png"),
        ("renamed.tif", "renamed.json", "before.tif"),
        ("b.png", "a.json", ".\\b.png"),
    ],
)
def test_the_image_is_found(tmp_path, image, file, path):
    form = {"p": "PNG", "J": "JPEG", "t": "TIFF"}[image.rpartition(".")[2][0]]
    content = annotation(box("cell", 2, 2, 5), path=path)
    write(tmp_path, {image: encoded(IMAGE, form), file: content})
    (sample,) = layouts.scan(of(tmp_path))
    assert sample.shape() == (40, 50)
    assert sample.load()["labels"].max() == 1
    assert sample.id == image.rpartition("/")[2].rpartition(".")[0]
    assert layouts.verify(of(tmp_path)) == []


def test_an_embedded_image_is_used_where_there_is_no_other(tmp_path):
    other = np.flipud(IMAGE)
    inside = annotation(box("cell", 2, 2, 5), imageData=text(encoded(other)))
    write(tmp_path, {"a.json": inside})
    (sample,) = layouts.scan(of(tmp_path))
    np.testing.assert_array_equal(sample.load()["image"][..., 0], other)
    assert sample.shape() == (40, 50) and sample.id == "a"
    assert layouts.verify(of(tmp_path)) == []
    write(tmp_path, {"a.png": encoded(IMAGE)})
    (sample,) = layouts.scan(of(tmp_path))
    np.testing.assert_array_equal(sample.load()["image"][..., 0], IMAGE)


def test_split_folders_are_respected_and_equal_images_leak(tmp_path):
    for name in ("train/a", "train/b", "val/a", "test/c"):
        image = np.roll(IMAGE, len(list(tmp_path.rglob("*"))))
        stem = name[-1]
        found = annotation(box("cell", 2, 2, 5), path=f"{stem}.png")
        write(tmp_path, {f"{name}.png": encoded(image), f"{name}.json": found})
    samples = {s.id: s.split for s in layouts.scan(of(tmp_path))}
    assert samples == {
        "train/a": "train", "train/b": "train", "val/a": "val",
        "test/c": "test",
    }  # fmt: skip
    assert layouts.verify(of(tmp_path)) == []
    leak = annotation(imageData=text((tmp_path / "train/b.png").read_bytes()))
    write(tmp_path, {"test/d.json": leak})
    (defect,) = layouts.verify(of(tmp_path))
    assert "the same image as" in defect.what and "split" in defect.what
    assert layouts.verify(of(tmp_path, data__split="group")) == []


def test_split_folders_are_no_groups_once_they_are_given_up(tmp_path):
    for i, name in enumerate(("train/a", "train/b", "val/a", "test/a")):
        found = annotation(box("cell", 2, 2, 5), path=f"{name[-1]}.png")
        image = encoded(np.roll(IMAGE, i))
        write(tmp_path, {f"{name}.png": image, f"{name}.json": found})
    samples = layouts.scan(of(tmp_path, data__split="group"))
    assert len({s.group for s in samples}) == 4


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_an_image_inside_and_the_same_beside_are_one_group(tmp_path, names):
    beside, inside = names
    within = annotation(path="gone.png", imageData=text(encoded(IMAGE)))
    write(
        tmp_path,
        {
            f"{beside}.png": encoded(IMAGE),
            f"{beside}.json": annotation(path=f"{beside}.png"),
            f"{inside}.json": within,
            "other.png": encoded(IMAGE[:20]),
            "other.json": annotation(path="other.png"),
        },
    )
    of_id = {s.id: s.group for s in layouts.scan(of(tmp_path))}
    assert of_id["a"] == of_id["b"] != of_id["other"]


def test_all_defects_are_listed_at_once(tmp_path):
    good = encoded(IMAGE)
    png = text(encoded(np.ones((3, 3), np.uint8)))
    bad = {
        "cut": (annotation(box("cell", 1, 1, 5))[:-9], "not JSON"),
        "deep": (b"[" * 100_000, "not JSON"),
        "half_a_letter": (annotation(box("\ud800", 1, 1, 5)), "not JSON"),
        "other": (b'{"images": []}', "no list of shapes"),
        "listed": (b"[1, 2]", "no list of shapes"),
        "unknown": (annotation(box("cel", 1, 1, 5)), "did you mean cell"),
        "small": (annotation(imageHeight=30), "30x50 px, small.png has 40x50"),
        "whole": (annotation(imageHeight=30.0), "30x50 px, whole.png has"),
        "half": (annotation(imageWidth=50.5), "imageWidth"),
        "words": (annotation(imageHeight="40"), "imageHeight"),
        "long": (annotation(shape("cell", [[1, 10**400]])), "not pairs"),
        "beyond": (
            annotation(shape("cell", [[1, 1], [9e307, 3]], "mask", mask=png)),
            "outside the image",
        ),
        "nameless": (annotation({"points": []}), "shape 1 has no label"),
        "pairs": (annotation(shape("cell", [1, 2, 3])), "not pairs"),
        "nan": (annotation(shape("cell", [[1, float("nan")]])), "NaN"),
        "crossed": (
            annotation(shape("cell", [[1, 1], [9, 9], [9, 1], [1, 9]])),
            "shape 1 (cell): a polygon that crosses itself",
        ),
        "far": (annotation(box("cell", 90, 90, 5)), "outside the image"),
        "two": (annotation(shape("cell", [[1, 1], [5, 5]])), "of 2 points"),
        "line": (annotation(shape("cell", [[1, 1]], "linestrip")), "no area"),
        "kind": (annotation(shape("cell", [], "polygn")), "mean polygon"),
        "thin": (annotation(box("cell", 1.6, 1.6, 0.3)), "no middle"),
        "unmasked": (annotation(shape("cell", [], "mask")), "without pixels"),
        "notmask": (
            annotation(shape("cell", [[1, 1], [3, 3]], "mask", mask="aGk=")),
            "its mask",
        ),
        "badmask": (
            annotation(shape("cell", [[1, 1], [3, 3]], "mask", mask="*")),
            "not base64",
        ),
        "wide": (
            annotation(shape("cell", [[1, 1], [9, 3]], "mask", mask=png)),
            "3x3 px in a box of 3x9",
        ),
        "group": (annotation(box("cell", 1, 1, 5, group_id=[1])), "group_id"),
        "over": (
            annotation(box("cell", 1, 1, 5), box("bead", 1, 1, 5)),
            "overlap in 25 px",
        ),
    }  # fmt: skip
    for name, (content, _) in bad.items():
        content = content.replace(b'"a.png"', f'"{name}.png"'.encode())
        write(tmp_path, {f"{name}.json": content, f"{name}.png": good})
    write(
        tmp_path,
        {
            "missing.json": annotation(path="gone.png"),
            "second.json": annotation(path="over.png"),
            "broken.json": annotation(imageData=text(good[:-30])),
            "alone.png": good,
            "fine.json": annotation(path="fine.png"),
            "fine.png": good,
            "bytes.json": annotation(path="bytes.png"),
            "bytes.png": good[:-30],
        },
    )
    expected = {f"{name}.json": what for name, (_, what) in bad.items()}
    expected |= {
        "missing.json": "its image gone.png is missing",
        "second.json": "of the image over.png",
        "broken.json": "truncated",
        "alone.png": "an image without annotations",
        "bytes.png": "truncated",
    }
    defects = layouts.verify(of(tmp_path))
    assert {defect.file for defect in defects} == expected.keys()
    assert len(defects) == len(expected)
    for defect in defects:
        assert expected[defect.file] in defect.what, defect
        assert defect.remedy and "\n" not in str(defect)
        assert str(defect).encode()
    with pytest.raises(config_lib.UserError, match="seg verify lists all"):
        layouts.scan(of(tmp_path))


def test_every_unknown_label_of_a_file_is_named(tmp_path):
    found = box("cel", 1, 1, 5), box("zzz", 9, 9, 5), box("cell", 20, 20, 5)
    write(tmp_path, {"a.png": encoded(IMAGE), "a.json": annotation(*found)})
    first, second = layouts.verify(of(tmp_path))
    assert "'cel'; did you mean cell" in first.what
    assert "'zzz'; known:" in second.what and "bead" in second.what
    assert "data.aliases" in first.remedy and "'cel=CLASS'" in first.remedy


def test_records_follow_the_files_the_names_and_the_aliases(tmp_path):
    raw = tmp_path / "raw"
    for i in range(4):
        found = annotation(box("cell", i, 2, 5), path=f"{i}.png")
        image = encoded(np.roll(IMAGE, i))
        write(raw, {f"{i}.png": image, f"{i}.json": found})
    config = of(raw, data__dir=str(tmp_path / "data"))
    records = dataset.prepare(config, progress=False)
    assert sum(map(records.n, ("train", "val", "test"))) == 4
    assert records.get("train", 0)["classes"].max() == 2
    assert dataset.open(config).digest == records.digest
    digests = {records.digest}
    for change in (
        {"classes": ("background", "cell", "bead")},
        {"data.aliases": ("x=cell",)},
    ):
        with pytest.raises(config_lib.UserError, match="not prepared"):
            dataset.open(config_lib.replace(config, change))
        other = config_lib.replace(config, change)
        digests.add(dataset.prepare(other, progress=False).digest)
    write(raw, {"0.json": annotation(box("bead", 1, 2, 5), path="0.png")})
    with pytest.raises(config_lib.UserError, match="has changed"):
        dataset.open(config)
    digests.add(dataset.prepare(config, progress=False).digest)
    assert len(digests) == 4
