"""Settings are chosen by what they score, of the maps that are there."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from seg import config
from seg.evaluate import tuning
from seg.predict import bundle, predictor


@pytest.fixture(scope="module")
def use():
    from flax import nnx

    from seg import models

    knobs = config.replace(
        config.Config(),
        {"model.width": 2, "model.depth": 1, "predict.min_area": (12,)},
    )
    network = models.build(knobs.model, nnx.Rngs(0))
    made = bundle.from_model(knobs, network)
    return predictor.Predictor(made, engine="jax")


def seen(seed, level):
    """Discs whose map is `level` inside, and specks that are none."""
    rng = np.random.default_rng(seed)
    spots = np.zeros((60, 60), bool)
    spots[tuple(rng.integers(6, 54, (2, 5)))] = True
    labels, _ = ndimage.label(ndimage.binary_dilation(spots, iterations=4))
    specks = np.zeros_like(spots)
    specks[1:4, 1:20:6] = specks[1:4, 2:20:6] = True  # of 6 px
    values = np.where(labels > 0, level, 0.1) + 0.5 * specks
    values += rng.normal(0, 0.02, values.shape)
    record = {
        "image": np.zeros((60, 60, 1), np.uint8), "id": str(seed),
        "classes": (labels > 0).astype(np.uint8), "labels": labels,
        "group": "",
    }  # fmt: skip
    return tuning.Seen(record, values.clip(0, 1)[..., None].astype("f4"))


def test_the_threshold_and_the_least_area_that_score_best_are_chosen(use):
    images = [seen(seed, 0.4) for seed in range(4)]
    found = tuning.tune(use, images, "ap_mean")
    assert found.predict.threshold == 0.25 or found.predict.threshold == 0.3
    assert 6 < found.predict.min_area[0] < 40
    rows = found.rows
    assert rows[0] == {
        "threshold": 0.5, "min_area": 12, "min_probability": 0.0, "ap_mean": 0,
    }  # fmt: skip
    best = max(row["ap_mean"] for row in rows)
    scored = tuning.score(use, images, found.predict, intervals=False)
    assert scored.metrics["val/ap_mean"] == best > 0.95
    assert len(found.predict.calibration) == 2
    tried = [tuple(row.values())[:3] for row in rows]
    assert len(tried) == len(set(tried))


def test_what_is_likelier_wrong_than_right_is_left_out(use, monkeypatch):
    """No threshold can do it: pale rims are right, pale discs are not."""
    rows, cols = np.indices((60, 60)) % 20 - 10
    far = np.hypot(rows, cols)
    image = seen(0, 0.9)
    labels, _ = ndimage.label((far < 6) & (np.indices((60, 60))[1] < 40))
    channels = np.where(far < 6, 0.62, 0.1)
    channels[labels > 0] = np.where(far < 4, 0.95, 0.58)[labels > 0]
    record = image.record | {
        "labels": labels, "classes": (labels > 0).astype(np.uint8),
    }  # fmt: skip
    image = tuning.Seen(record, channels[..., None].astype("f4"))
    found = tuning.tune(use, [image] * 3, "ap50")
    without = [r["ap50"] for r in found.rows if not r["min_probability"]]
    assert max(without) == pytest.approx(6 / 9) and found.value == 1
    assert found.predict.min_probability > 0
    scored = tuning.score(use, [image], found.predict, intervals=False)
    assert scored.metrics["val/ap50"] == 1
    # but no more than that, and nothing where the score hardly gains by it
    least = found.predict.min_probability
    less = [r["ap50"] for r in found.rows if r["min_probability"] < least]
    assert max(less) < 1
    monkeypatch.setattr(tuning, "_ALIKE", 0.4)
    found = tuning.tune(use, [image] * 3, "ap50")
    assert found.predict.min_probability == 0
    assert found.value == pytest.approx(6 / 9)


def test_of_an_error_the_least_is_best(use):
    images = [seen(seed, 0.4) for seed in range(3)]
    found = tuning.tune(use, images, "count_error")
    errors = [row["count_error"] for row in found.rows]
    scored = tuning.score(use, images, found.predict, intervals=False)
    assert scored.metrics["val/count_error"] == min(errors) < errors[0]
    with pytest.raises(config.ConfigError, match="after they are chosen"):
        tuning.tune(use, images, "ece")


def test_where_all_score_alike_the_model_keeps_its_own(use):
    empty = seen(0, 0.1)
    record = empty.record | {
        "classes": np.zeros((60, 60), np.uint8),
        "labels": np.zeros((60, 60), np.int32),
    }
    nothing = tuning.Seen(record, np.zeros((60, 60, 1), np.float32))
    found = tuning.tune(use, [nothing] * 2, "ap50")
    assert found.predict == use.config.predict
    assert np.isnan(found.after)


def test_a_score_that_there_is_not_is_refused(use):
    with pytest.raises(config.ConfigError, match="did you mean ap95"):
        tuning.tune(use, [seen(0, 0.8)], "ap5")


def test_classes_without_objects_are_tuned_by_their_pixels(use):
    one = seen(1, 0.4)
    plain = tuning.Seen(one.record | {"labels": None}, one.channels)
    found = tuning.tune(use, [plain], "dice")
    assert found.predict.threshold < 0.4
    assert found.predict.calibration == () and np.isnan(found.before)


def test_only_knobs_that_the_model_has_are_tried():
    plain = config.Config()
    assert tuning.knobs(plain) == ["threshold", "min_area"]
    learned = dataclasses.replace(
        plain, predict=config.Predict(separate="learned")
    )
    assert tuning.knobs(learned)[0] == "prominence"
    several = config.replace(
        plain,
        {"model.n_classes": 3, "predict.min_area": (3, 4)},
    )
    assert tuning.knobs(several) == []
