"""What is said of a data set is what its records hold."""

import numpy as np
import pytest
from PIL import Image

from seg.evaluate import plots, survey
from seg.images import formats

NAMES = ("background", "cell", "bead")


class Held:
    """Records that are held in memory."""

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
        "id": name, "group": "plate", "image": image, "classes": classes,
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


def test_images_without_objects_or_light_are_no_error(tmp_path):
    black = record("black", 0, known=False, dtype=np.float32)
    found = survey.survey(Held(val=[black]), NAMES)
    assert "data/median_area_px" not in found.totals()
    assert len(survey.write_all(tmp_path, found)) == 1 + len(plots.SURVEY)
