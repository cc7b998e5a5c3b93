import dataclasses
import json
import math
import sys
import weakref

import numpy as np
import pytest

from seg import config
from seg.evaluate import artifacts, matching, metrics, report
from seg.images import formats

NAMES = ("background", "nucleus")
THRESHOLDS = (50, 55, 60, 65, 70, 75, 80, 85, 90, 95)


@dataclasses.dataclass
class Found:
    labels: np.ndarray
    classes: np.ndarray
    table: list


def _found(labels, classes=None):
    labels = np.asarray(labels, np.int32)
    if classes is None:
        classes = labels > 0
    return Found(labels, np.asarray(classes, np.uint8), [])


def _squares(*corners, side=8, shape=(40, 50)):
    """Labels of squares, ids from 1 in this order."""
    labels = np.zeros(shape, np.int32)
    for label, (row, col) in enumerate(corners, 1):
        labels[row : row + side, col : col + side] = label
    return labels


def _record(name, labels, **changes):
    record = {
        "image": np.where(labels > 0, 200, 20).astype(np.uint8)[..., None],
        "classes": (labels > 0).astype(np.uint8),
        "labels": labels,
        "id": name,
        "group": "field",
    }
    return record | changes


def _truth(record):
    return _found(record["labels"], record["classes"])


PLENTY = _record("plenty", _squares((2, 2), (2, 20), (20, 2), (20, 20)))
FEW = _record("few", _squares((10, 10)))
EMPTY = _record("empty", _squares())


def _one_missed_one_wrong(record):
    """Finds `few`; of the four of `plenty` two, one of them cut in half."""
    labels = record["labels"].copy()
    if record["id"] == "plenty":
        labels[labels > 2] = 0
        labels[6:10, 20:28] = 0  # IoU 1/2
        labels[30:34, 40:44] = 9
    return _found(labels)


def _evaluate(predict, *records, **kwargs):
    kwargs.setdefault("intervals", False)
    return report.evaluate(predict, records, NAMES, "test", **kwargs)


def test_metrics_have_the_names_that_tracking_expects():
    names = {"dice", "iou", "miou", "miou_image", "accuracy", "count_error"}
    names |= {f"{kind}_{name}" for kind in ("dice", "iou") for name in NAMES}
    objects = ("ap_mean", "pq", "f1", "aji", "boundary_f")
    for name in (*(f"ap{t}" for t in THRESHOLDS), *objects):
        names |= {name, f"{name}_image"}
    found = _evaluate(_truth, PLENTY, intervals=True)
    assert set(found.metrics) == {f"test/{name}" for name in names}
    assert set(found.intervals) == set(found.metrics)
    assert all(isinstance(value, float) for value in found.metrics.values())


def test_the_truth_scores_one_and_counts_right():
    found = _evaluate(_truth, PLENTY, FEW, EMPTY)
    errors = {"test/count_error": 0.0}
    assert found.metrics == dict.fromkeys(found.metrics, 1.0) | errors


def test_scores_equal_a_count_by_hand():
    found = _evaluate(_one_missed_one_wrong, PLENTY, FEW).metrics
    # plenty: 4 there, 3 found, IoUs 1 and 1/2; few: 1 of 1
    n_true, n_found, n_both = 4 * 64, 64 + 32 + 16, 64 + 32
    dice = 2 * n_both / (n_true + n_found)
    iou = n_both / (n_true + n_found - n_both)
    n_neither = 40 * 50 - (n_true + n_found - n_both)
    background = n_neither / (40 * 50 - n_both)
    expected = {
        "dice": (dice + 1) / 2,
        "iou": (iou + 1) / 2,
        "iou_nucleus": (n_both + 64) / (n_true + n_found - n_both + 64),
        "miou_image": ((iou + background) / 2 + 1) / 2,
        "ap50": 3 / (3 + 1 + 2),
        "ap50_image": (2 / 5 + 1) / 2,
        "ap55": 2 / (2 + 2 + 3),
        "ap_mean": (3 / 6 + 8 * 2 / 7) / 9,
        "f1": 6 / 9,
        "pq": 2.5 / (3 + 1 / 2 + 2 / 2),
        "count_error": (1 / 4 + 0) / 2,
    }
    for name, value in expected.items():
        assert found[f"test/{name}"] == pytest.approx(value), name


def test_scores_equal_those_of_metrics_and_matching():
    rng = np.random.default_rng(0)
    records = []
    for i in range(5):
        blocks = rng.integers(0, 9, (8, 10)).astype(np.int32)
        records.append(_record(str(i), np.kron(blocks, np.ones((4, 4), int))))
    predict = {r["id"]: _found(np.roll(r["labels"], 1, 0)) for r in records}
    found = _evaluate(lambda record: predict[record["id"]], *records)
    matchings = [
        matching.match(r["labels"], predict[r["id"]].labels) for r in records
    ]
    for name, value in matching.scores(matchings).items():
        assert found.metrics[f"test/{name}"] == value
    dice = [
        metrics.foreground(predict[r["id"]].classes, r["classes"])[0]
        for r in records
    ]
    assert found.metrics["test/dice"] == pytest.approx(np.mean(dice))
    assert [row["dice"] for row in found.rows] == dice


def test_classes_are_scored_from_one_confusion_matrix():
    labels = _squares((2, 2), (20, 20))
    classes = np.where(labels == 2, 2, labels).astype(np.uint8)
    record = _record("two", labels, classes=classes)
    wrong = _found(labels, np.minimum(classes, 1))
    names = ("background", "cell", "bead")
    found = report.evaluate(
        lambda _: wrong, [record], names, "val", intervals=False
    ).metrics
    assert found["val/dice"] == found["val/ap50"] == 1.0
    assert found["val/iou_cell"] == 0.5
    assert found["val/iou_bead"] == 0.0
    assert found["val/miou"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_without_objects_in_the_truth_only_pixels_are_scored(tmp_path):
    record = _record("pixels", PLENTY["labels"]) | {"labels": None}
    found = _evaluate(
        lambda _: _found(PLENTY["labels"]), record, folder=tmp_path
    )
    assert found.metrics["test/dice"] == 1.0
    assert not [name for name in found.metrics if "ap" in name or "pq" in name]
    assert (tmp_path / "overlays/best_1.png").exists()
    assert not (tmp_path / "curves").exists()


def test_what_is_not_annotated_counts_neither_for_nor_against(tmp_path):
    classes = PLENTY["classes"].copy()
    classes[18:] = 255  # the lower two of the four
    record = _record("part", PLENTY["labels"], classes=classes)
    labels = _squares((2, 2), (2, 20), (30, 30), (30, 5))
    labels[14:23, 20:24] = 5  # reaches in, but lies mostly outside
    found = _evaluate(lambda _: _found(labels), record, folder=tmp_path)
    assert found.rows[0]["n_true"] == found.rows[0]["n_found"] == 2
    assert found.metrics["test/ap95"] == 1.0
    rows = formats.read_table(tmp_path / "objects.csv")
    assert [row["match"] for row in rows] == ["right"] * 2 + (
        ["not annotated"] * 3
    )
    # what lies mostly inside counts with its annotated part
    labels[8:23, 40:44] = 6
    assert _evaluate(lambda _: _found(labels), record).rows[0]["n_found"] == 3


def test_no_record_is_an_error_that_names_the_split():
    with pytest.raises(config.UserError, match="split 'val'"):
        report.evaluate(_truth, [], NAMES, "val")


def test_one_image_at_a_time_is_kept(tmp_path):
    images = []

    def records():
        for i in range(6):
            if images:
                assert sum(ref() is not None for ref in images) <= 1
            labels = _squares((2, 2), (i, 20))
            record = _record(str(i), labels)
            images.append(weakref.ref(record["image"]))
            yield record
            del record, labels

    report.evaluate(
        _truth, records(), NAMES, "test", folder=tmp_path, n_overlays=2,
        intervals=False,
    )  # fmt: skip
    assert len(images) == 6


def test_intervals_hold_the_score_and_are_the_same_again():
    records = [
        _record(str(i), _squares((2, 2), (2, 20), (20, i))) for i in range(8)
    ]

    def predict(record):
        labels = record["labels"].copy()
        labels[:, : 2 + int(record["id"])] = 0
        return _found(labels)

    found = _evaluate(predict, *records, intervals=True)
    again = _evaluate(predict, *records, intervals=True)
    assert found.intervals == again.intervals
    for name, (low, high) in found.intervals.items():
        assert low <= found.metrics[name] <= high, name
    low, high = found.intervals["test/dice"]
    assert low < high
    alike = _evaluate(_truth, *[FEW] * 3, intervals=True).intervals
    assert alike["test/ap50"] == alike["test/iou_nucleus"] == (1.0, 1.0)


def test_files_are_whole_and_repeat_the_scores(tmp_path):
    found = _evaluate(
        _one_missed_one_wrong, PLENTY, FEW, EMPTY,
        folder=tmp_path, n_overlays=2, intervals=True,
    )  # fmt: skip
    files = {path.relative_to(tmp_path).as_posix() for path in found.files}
    assert files == {
        "overlays/worst_1.png",
        "overlays/best_1.png",
        "overlays/first_1.png",
        "overlays/first_2.png",
        "curves/ap.png",
        "objects.csv",
        "images.csv",
        "scores.json",
        "summary.md",
    }
    present = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(present) == sorted(found.files)
    for path, folder in found.files.items():
        assert (tmp_path / folder / path.name) == path
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["metrics"] == found.metrics
    assert saved["n_images"] == 3
    low, high = saved["intervals"]["test/dice"]
    assert (low, high) == found.intervals["test/dice"]
    rows = formats.read_table(tmp_path / "images.csv")
    assert [row["image"] for row in rows] == ["plenty", "few", "empty"]
    assert tuple(rows[0]) == artifacts.IMAGE_FIELDS
    assert rows[0]["ap50"] == pytest.approx(2 / 5)
    assert "| ap50 " in (tmp_path / "summary.md").read_text()


def test_objects_say_how_they_match(tmp_path):
    def predict(record):
        found = _one_missed_one_wrong(record)
        found.table = [{"label": 1, "class": "nucleus", "area_px": 64}]
        return found

    _evaluate(predict, PLENTY, FEW, folder=tmp_path)
    rows = formats.read_table(tmp_path / "objects.csv")
    keys = ("image", "label", "class", "area_px", "match", "true_label", "iou")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("plenty", 1, "nucleus", 64, "right", 1, 1.0),
        ("plenty", 2, "", 32, "right", 2, 0.5),
        ("plenty", 9, "", 16, "wrong", None, None),
        ("few", 1, "nucleus", 64, "right", 1, 1.0),
    ]


def test_a_second_evaluation_replaces_the_files_of_the_first(tmp_path):
    _evaluate(_one_missed_one_wrong, PLENTY, FEW, folder=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    again = _evaluate(_truth, EMPTY, PLENTY, folder=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["metrics"] == again.metrics


def test_scores_that_are_not_defined_are_left_empty(tmp_path):
    nothing = np.full((40, 50), 255, np.uint8)
    record = _record("blank", _squares(), classes=nothing)
    found = _evaluate(_truth_of_nothing, record, folder=tmp_path)
    assert math.isnan(found.metrics["test/miou"])
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["metrics"]["test/miou"] is None
    assert "nan" not in (tmp_path / "summary.md").read_text()


def _truth_of_nothing(record):
    return _found(_squares((2, 2)))


def test_without_matplotlib_tables_are_written_all_the_same(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = _evaluate(_truth, FEW, folder=tmp_path)
    assert not [path for path in found.files if path.suffix == ".png"]
    assert (tmp_path / "images.csv").exists()
    assert "matplotlib is not installed" in caplog.text


@pytest.mark.parametrize("n", [0, 1, 2, 5, 8, 30])
def test_gallery_keeps_the_worst_and_the_best(n):
    rng = np.random.default_rng(n)
    scores = rng.choice(50, 20, replace=False) / 50
    gallery = artifacts.Gallery(n)
    for score in scores:
        row = {
            "image": f"{score}", "dice": 1.0, "ap50": 1.0, "ap_mean": score,
            "n_true": 1, "n_found": 1,
        }  # fmt: skip
        found = _truth(FEW)
        gallery.offer(row, FEW, found, FEW["labels"], found.labels)
    names = [name for name, _ in gallery.named()]
    shown = [float(entry["title"].split()[0]) for _, entry in gallery.named()]
    n_first = 2 if n else 0
    split = len(names) - n_first
    assert names[split:] == [f"first_{i + 1}" for i in range(n_first)]
    assert shown[split:] == scores[:n_first].tolist()
    names, shown = names[:split], shown[:split]
    ranked = sorted(scores)
    n_worst = min(n // 2, 10)
    n_best = min(n, 20) - n_worst
    assert shown == ranked[:n_worst] + ranked[20 - n_best :]
    assert names == (
        [f"worst_{i + 1}" for i in range(n_worst)]
        + [f"best_{i + 1}" for i in reversed(range(n_best))]
    )


def test_summary_sets_reports_side_by_side():
    ours = _evaluate(_truth, PLENTY)
    other = _evaluate(_one_missed_one_wrong, PLENTY, intervals=True)
    lines = report.summary(
        {"ours": ours, "Otsu": other}, ["dice", "ap50", "count_error"]
    ).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == [
        "score",
        "-----------",
        "dice",
        "ap50",
        "count_error",
    ]
    assert len({len(line) for line in lines}) == 1
    assert lines[3].split("|")[2].strip() == "1.000"
    assert lines[3].split("|")[3].strip() == "0.400 (0.400 to 0.400)"
    full = ours.summary().splitlines()
    assert len(full) == len(ours.metrics) + 2
    assert full[2].startswith("| dice ")
