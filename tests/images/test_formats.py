import types

import numpy as np
import pytest

from seg import config
from seg.images import formats, read

ROW = {
    "image": "a, b.png",
    "label": np.int32(3),
    "class": "1",
    "area_px": 12,
    "row": np.float32(10.5),
    "col": 1234.5678,
    "mean_intensity": float("nan"),
    "solidity": None,
    "probability": np.float64(0.25),
    "own": "x",
}


def test_the_columns_are_those_of_the_contract():
    assert ",".join(formats.FIELDS[:14]) == (
        "image,label,class,area_px,row,col,bbox_row0,bbox_col0,bbox_row1,"
        "bbox_col1,mean_intensity,eccentricity,solidity,probability"
    )


def test_a_table_comes_back(tmp_path):
    path = tmp_path / "objects.csv"
    formats.write_table(path, [ROW, ROW | {"label": 4}])
    first, second = formats.read_table(path)
    assert list(first) == [*formats.FIELDS, "own"]
    assert first["image"] == "a, b.png" and first["class"] == "1"
    assert first["label"] == 3 and second["label"] == 4
    assert first["row"] == 10.5 and first["col"] == 1234.5678
    assert first["mean_intensity"] is None and first["solidity"] is None
    assert first["probability"] == 0.25 and first["own"] == "x"


def test_a_table_without_rows_has_its_header(tmp_path):
    formats.write_table(tmp_path / "a.csv", [])
    assert (tmp_path / "a.csv").read_text() == ",".join(formats.FIELDS) + "\n"
    assert formats.read_table(tmp_path / "a.csv") == []


def test_equal_tables_are_equal_files(tmp_path):
    formats.write_table(tmp_path / "a.csv", [ROW])
    formats.write_table(
        tmp_path / "b.csv", formats.read_table(tmp_path / "a.csv")
    )
    assert (tmp_path / "a.csv").read_bytes() == (
        tmp_path / "b.csv"
    ).read_bytes()


def test_what_is_no_table_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    for content, what in (
        (b"", "not a CSV table"),
        (b"\xff\xfe\x00", "not a CSV table"),
        (b"image,label\na.png\n", "line 2: 1 cells"),
    ):
        path.write_bytes(content)
        with pytest.raises(config.UserError, match=what):
            formats.read_table(path)
    with pytest.raises(config.UserError, match="not a CSV table"):
        formats.read_table(tmp_path / "absent.csv")


def test_every_format_writes_the_file_it_names(tmp_path):
    labels = np.zeros((8, 9), np.int32)
    labels[2:6, 2:6] = ROW["label"]
    found = types.SimpleNamespace(
        labels=labels,
        classes=(labels > 0).astype(np.uint8),
        probabilities=np.ones((8, 9, 2), np.float32),
        source="a.png",
        pixel_size=None,
        table=[
            ROW
            | {"bbox_row0": 2, "bbox_col0": 2, "bbox_row1": 6, "bbox_col1": 6}
        ],
    )
    image = np.zeros((8, 9, 1), np.uint8)
    for name, form in formats.FORMATS.items():
        path = tmp_path / form.name.format(stem="a")
        if form.part:
            form.write(path, [("a", form.part(image, found))])
        elif form.per_image:
            form.write(path, image, found)
        else:
            form.write(path, found.table)
        assert path.exists(), name
    assert {path.name for path in tmp_path.iterdir()} == {
        "a_labels.tif", "a_classes.png", "a_overlay.png",
        "a_probabilities.tif", "a_boxes.png", "a_crops", "a.zarr",
        "a_uncertainty.tif", "objects.csv", "images.csv", "a.geojson",
        "a_rois.zip", "a.json", "coco.json", "rle.csv", "objects.parquet",
    }  # fmt: skip
    np.testing.assert_array_equal(
        read.read_mask(tmp_path / "a_labels.tif"), labels
    )


def test_a_format_that_is_named_twice_is_written_once():
    assert formats.chosen("csv, labels,csv") == ["csv", "labels"]
