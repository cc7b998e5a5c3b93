"""What is said of a data set is what its records hold."""

import collections

import numpy as np
import pytest
import tifffile
from PIL import Image

from seg import config as config_lib
from seg.data import layouts
from seg.evaluate import plots, survey
from seg.images import formats

NAMES = ("background", "cell", "bead")


class Held:
    """Records that are held in memory."""

    config = config_lib.Config()

    def __init__(self, **splits):
        self.splits = splits

    def n(self, split):
        return len(self.splits.get(split, ()))

    def read(self, split, i):
        return self.splits[split][i]


def record(name, level, *, known=True, dtype=np.uint8):
    image = np.full((30, 40, 1), level, dtype)
    labels = np.zeros((30, 40), np.int32)
    labels[2:6, 2:6], labels[10:20, 10:20] = 1, 2
    classes = np.minimum(labels, 2).astype(np.uint8)
    classes[25:] = 255
    return {
        "id": name, "group": f"of {name}", "image": image, "classes": classes,
        "labels": labels if known else None,
    }  # fmt: skip


@pytest.fixture
def found():
    return survey.survey(
        Held(
            train=[record("dark", 10), record("grey", 120)],
            test=[record("bright", 250, known=False)],
        ),
        NAMES,
    )


def test_every_image_has_its_row(found):
    assert [row["image"] for row in found.rows] == ["dark", "grey", "bright"]
    assert [row["split"] for row in found.rows] == ["train", "train", "test"]
    first = found.rows[0]
    assert first.keys() == set(survey.FIELDS)
    assert (first["rows"], first["cols"], first["mean"]) == (30, 40, 10)
    assert first["n_objects"] == 2 and first["median_area_px"] == 58
    assert first["foreground"] == pytest.approx(116 / (25 * 40))
    assert first["not_annotated"] == pytest.approx(5 / 30)
    assert found.rows[2]["n_objects"] is None
    assert len({row["cluster"] for row in found.rows}) == 3


def test_the_totals_are_those_of_the_rows(found):
    totals = found.totals()
    assert totals["data/n_images"] == 3
    assert totals["data/n_objects"] == 4
    assert totals["data/median_area_px"] == 58
    assert found.pixels == {"background": 2652, "cell": 48, "bead": 300}
    np.testing.assert_allclose(found.histograms.sum(1), 1)


def test_the_summary_speaks_of_splits_sizes_and_areas(found):
    text = found.summary()
    assert "3 images (2 train, 1 test), 1 size of 30x40 px" in text
    assert "4 objects" in text and "cell 1.6%" in text


def test_the_table_and_all_pictures_are_written(found, tmp_path):
    files = survey.write_all(tmp_path, found)
    assert len(formats.read_table(tmp_path / "images.csv")) == 3
    drawn = [path for path in files if path.suffix == ".png"]
    assert {path.stem for path in drawn} == set(plots.SURVEY)
    for path in drawn:
        assert np.asarray(Image.open(path)).std() > 5


@pytest.mark.parametrize("seed", [0, 3])
def test_the_clusters_are_those_of_the_split_by_clusters(tmp_path, seed):
    """Floats of a large unit, plates of several images, any seed."""
    rng = np.random.default_rng(0)
    for i in range(48):
        top, low, scale = rng.integers(1, 9, 3)
        image = scale * 1e3 * rng.random((8 * top, 8 * low))
        for kind, array in (("images", image), ("masks", image > 9)):
            path = tmp_path / kind / f"p{i // 3}" / f"{i}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            dtype = np.float32 if kind == "images" else np.uint8
            tifffile.imwrite(path, array.astype(dtype))
    held = Held()
    held.config = config_lib.replace(
        held.config,
        {"data.layout": "folders", "data.path": str(tmp_path),
         "data.split": "clusters", "data.split_seed": seed},
    )  # fmt: skip
    samples = layouts.scan(held.config)
    held.splits = {
        "train": [
            {**s.load(), "id": s.id, "group": s.group} for s in samples[::-1]
        ]
    }
    found = survey.survey(held, NAMES)
    of_image = {row["image"]: f"cluster{row['cluster']}" for row in found.rows}
    assert of_image == {s.id: s.stratum for s in samples}
    assert len(set(of_image.values())) > 4
    per_plate = collections.Counter(s.group for s in samples)
    assert set(per_plate.values()) == {3}


def test_what_is_not_annotated_is_no_foreground(found, tmp_path):
    blank = record("blank", 5, known=False)
    blank["classes"][:] = 255
    half = record("half", 50)
    more = survey.survey(Held(train=[blank, half]), NAMES)
    assert more.rows[0]["foreground"] is None
    assert more.rows[0]["not_annotated"] == 1
    share = found.totals()["data/foreground"]
    assert more.totals()["data/foreground"] == pytest.approx(share)
    survey.write_all(tmp_path, more)
    alone = survey.survey(Held(train=[blank]), NAMES)
    assert "data/foreground" not in alone.totals()
    assert "0 objects\n" in alone.summary()
    survey.write_all(tmp_path, alone)


def test_images_without_objects_or_light_are_no_error(tmp_path):
    black = record("black", 0, known=False, dtype=np.float32)
    found = survey.survey(Held(val=[black]), NAMES)
    assert "data/median_area_px" not in found.totals()
    assert len(survey.write_all(tmp_path, found)) == 1 + len(plots.SURVEY)
