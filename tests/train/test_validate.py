"""Claims about validation: the loss and scores of whole images."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from seg import config, models, normalize
from seg.data import records
from seg.train import losses, mesh, step, stop, validate

SHAPE = (32, 32)  # one window


def settings(n_classes=1, **changes):
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    names = ("background", "a", "b")[: max(n_classes, 2)]
    knobs = {
        "model.width": 2, "model.depth": 1, "model.n_classes": n_classes,
        "data.tile": 32, "predict.tile": 32, "classes": names,
    }  # fmt: skip
    return config.replace(config.Config(), knobs | changes)


def record_of(i, n_classes, labelled=True):
    rng = np.random.default_rng(i)
    image = rng.integers(0, 255, (*SHAPE, 1)).astype(np.uint8)
    labels = np.zeros(SHAPE, np.int32)
    labels[3:12, 4:20], labels[12:20, 4:20], labels[25:, 25:] = 1, 2, 3
    classes = (labels > 0).astype(np.uint8) * rng.integers(1, n_classes or 2)
    classes[0] = 255
    return {
        "image": image, "stats": normalize.measure(image),
        "classes": classes.astype(np.uint8),
        "labels": labels if labelled else None,
        "id": str(i), "group": str(i),
    }  # fmt: skip


def data_of(n=2, n_classes=1, **kwargs):
    index = [{"id": str(i), "group": "", "shape": SHAPE} for i in range(n)]
    return records.Records(
        {"val": index},
        "digest",
        lambda split, i: record_of(i, max(n_classes, 2), **kwargs),
        64,
        settings(n_classes),
    )


@functools.cache
def fresh(n_classes=1, ema=0.0):
    knobs = settings(n_classes, optim__ema=ema)
    return step.create(knobs, 10, mesh.make())[0]


@pytest.mark.parametrize(("n_classes", "ema"), [(1, 0.0), (3, 0.5)])
def test_the_loss_is_that_of_the_networks_own_logits(n_classes, ema):
    knobs = settings(n_classes, optim__ema=ema)
    state = fresh(n_classes, ema)
    data, called = data_of(n_classes=n_classes), []
    evaluate = validate.on_images(knobs, data)
    found = evaluate(state, lambda: called.append(1))
    assert len(called) == 2  # once a batch of windows

    network = models.build(knobs.model, nnx.Rngs(knobs.train.seed))
    wanted = []
    for i in range(2):
        record = data.read("val", i)
        image = normalize.apply(
            record["image"], record["stats"], knobs.data.normalize
        )
        outputs = network(image[None])
        one = np.ones(1, np.float32)
        classes = record["classes"][None]
        wanted.append(losses.total(outputs, classes, one, knobs.loss, 1.0))
    assert found["val/loss"] == pytest.approx(np.mean(wanted), rel=1e-4)
    assert {"val/dice", "val/iou", "val/miou", "val/ap50"} < found.keys()
    assert all(np.isfinite(value) for value in found.values())


def test_a_gap_between_objects_is_background_to_the_loss():
    state = fresh(1, 0.0)
    scores = [
        validate.on_images(settings(data__gap=gap), data_of())(
            state, lambda: None
        )
        for gap in (0, 1)
    ]
    assert scores[0].pop("val/loss") != scores[1].pop("val/loss")
    for found in scores:
        assert found.pop("perf/predict_mpx_per_second") > 0
    assert scores[0] == scores[1]  # the scores are those of the truth


def test_it_can_be_stopped_in_the_middle():
    def check():
        raise stop.Interrupted("SIGTERM")

    state = fresh(1, 0.0)
    with pytest.raises(stop.Interrupted):
        validate.on_images(settings(), data_of())(state, check)


def test_several_processes_agree_once_an_image(monkeypatch):
    """Of their batches, each may have another number."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    wide = {"predict__tta": 8, "predict__batch_size": 1}
    evaluate = validate.on_images(settings(**wide), data_of(3))
    state, called = fresh(1, 0.0), []
    evaluate(state, lambda: called.append(1))
    assert len(called) == 3


@pytest.mark.parametrize(
    ("n_scored", "wanted"),
    [(0, range(9)), (3, (0, 4, 8)), (1, (0,)), (99, range(9))],
)
def test_a_few_images_spread_evenly_can_stand_for_all(n_scored, wanted):
    seen = []
    data = data_of(9)
    read = data.read
    data.read = lambda split, i: seen.append(i) or read(split, i)
    knobs = settings(train__eval_images=n_scored)
    evaluate = validate.on_images(knobs, data)
    seen.clear()
    evaluate(fresh(), lambda: None)
    assert seen == list(wanted)


def test_without_images_there_is_no_validation():
    assert validate.on_images(settings(), data_of(0)) is None


@pytest.mark.parametrize("name", ["val/ap50", "val/loss", "val/dice_a"])
def test_any_score_of_the_validation_can_be_watched(name):
    knobs = settings(train__monitor=name)
    assert validate.on_images(knobs, data_of()) is not None


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("val/dise", {}),
        ("train/loss", {}),
        ("dice", {}),
        ("val/dice_b", {}),
        ("val/ap50", {"labelled": False}),  # no objects are known
    ],
)
def test_another_name_is_refused_before_the_training(name, kwargs):
    knobs = settings(train__monitor=name)
    with pytest.raises(config.ConfigError, match=r"unknown train\.monitor"):
        validate.on_images(knobs, data_of(**kwargs))
