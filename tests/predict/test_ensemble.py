"""Claims about several models as one: the mean of their probabilities."""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import seg
from seg import config, normalize
from seg.images import read
from seg.predict import bundle, ensemble, predictor

IMAGE = np.random.default_rng(0).integers(0, 255, (50, 70)).astype(np.uint8)


def mean_of(bundles, image=IMAGE, **settings):
    maps = [
        predictor.Predictor(one, **settings).probabilities(image)
        for one in bundles
    ]
    assert np.abs(maps[0] - maps[1]).max() > 0.1
    return np.mean(maps, 0)


@pytest.mark.parametrize("engine", ["jax", "onnx", "openvino"])
@pytest.mark.parametrize("tta", [1, 8])
def test_it_is_the_mean_of_the_single_predictions(make_bundle, engine, tta):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    bundles = [make_bundle(seed, predict__tta=tta) for seed in (0, 1, 2)]
    both = predictor.Predictor(bundles[0], engine=engine, others=bundles[1:])
    found = both.probabilities(IMAGE)
    wanted = mean_of(bundles, engine=engine)
    # each alone may compute in bfloat16, once its first batch agrees
    atol = 0.02 if engine == "openvino" else 1e-6
    np.testing.assert_allclose(found, wanted, atol=atol)


def test_networks_and_scalings_of_their_own_are_averaged(make_bundle):
    bundles = [
        make_bundle(model__name="unet_small", predict__tile=24),
        make_bundle(1, model__depth=3, data__normalize="range"),
    ]
    both = predictor.Predictor(bundles[0], engine="jax", others=bundles[1:])
    # windows of 24 px begin at the same places for strides of 4 and of 8 px
    image = np.pad(IMAGE, ((0, 56), (0, 72)), mode="reflect")[:56, :72]
    wanted = mean_of(
        bundles, image, predict=bundles[0].config.predict, engine="jax"
    )
    np.testing.assert_allclose(both.probabilities(image), wanted, atol=1e-6)


def test_an_image_read_by_rows_is_averaged_too(make_bundle):
    first, other = make_bundle(0), make_bundle(1)
    both = predictor.Predictor(first, engine="jax", others=[other])
    stats = normalize.measure(IMAGE[..., None])
    pixels = read.as_channels(IMAGE[..., None], 1)
    strips = both.strips(lambda a, b: pixels[a:b], IMAGE.shape, stats)
    found = np.concatenate([strip for _, strip in strips])
    np.testing.assert_allclose(
        found, mean_of([first, other], engine="jax"), atol=1e-6
    )


@pytest.mark.parametrize("name", ["a,b", "all", " all/a , all/b ", "folds"])
def test_models_are_named_one_by_one_or_by_their_folder(make_bundle, name):
    made = {"a": make_bundle(0), "b": make_bundle(1)}
    for folder in ("", "all/"):
        for key, one in made.items():
            bundle.save(one, f"{folder}{key}")
    for key, one in made.items():
        bundle.save(one, f"folds/fold={key}/bundle")
    pathlib.Path("folds/sweep.json").touch()  # of a sweep
    found = seg.load(name, tta=2).probabilities(IMAGE)
    wanted = mean_of(
        made.values(), predict=config.Predict(tile=32, tta=2), engine="auto"
    )
    np.testing.assert_allclose(found, wanted, atol=0.02)
    (one,) = seg.load("all/a").bundles
    assert bundle.digest(one) == bundle.digest(made["a"])


def test_the_calibration_of_one_model_is_not_that_of_the_mean(
    make_bundle, caplog
):
    own = {"calibration": (2.0, -3.0), "min_probability": 0.4}
    first = make_bundle(0, **{f"predict__{k}": v for k, v in own.items()})
    others = [make_bundle(1)]
    both = predictor.Predictor(first, engine="jax", others=others)
    assert both.config.predict.calibration == ()
    assert both.config.predict.min_probability == 0
    told = dataclasses.replace(first.config.predict, min_probability=0.5)
    both = predictor.Predictor(first, told, engine="jax", others=others)
    assert both.config.predict.min_probability == 0.5
    assert "of one model" in caplog.text
    alone = predictor.Predictor(first, engine="jax")
    assert alone.config.predict.calibration == (2.0, -3.0)


def test_a_name_with_a_comma_in_it_is_one_model(make_bundle):
    bundle.save(make_bundle(), "a,b")
    assert len(seg.load("a,b").bundles) == 1


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"classes": ("background", "cell")}, "model 1 has classes=.*nucleus"),
        ({"model__in_channels": 3}, "model.in_channels=1, model 2 .*=3"),
        ({"model__n_classes": 2}, "model.n_classes=1, model 2 .*=2"),
    ],
)
def test_what_cannot_be_averaged_is_refused_with_the_reason(
    make_bundle, tiny, knobs, message
):
    with pytest.raises(config.UserError, match=message) as caught:
        predictor.Predictor(tiny, others=[make_bundle(**knobs)])
    assert "\n" not in str(caught.value)


def test_an_ensemble_is_another_model_than_each_of_its_own(make_bundle):
    first, other = make_bundle(0), make_bundle(1)
    assert ensemble.digest([first]) == bundle.digest(first)
    assert ensemble.digest([first, other]) not in (
        bundle.digest(first),
        bundle.digest(other),
    )


def test_the_command_averages_and_leaves_its_models_alone(make_bundle):
    pytest.importorskip("onnxruntime")
    for seed, name in enumerate("ab"):
        bundle.save(make_bundle(seed), name)
    Image.fromarray(IMAGE).save("cells.png")
    arguments = ["predict", "cells.png", "--model=a,b", "--out=out"]
    arguments += ["--engine=onnx", "--formats=classes"]
    subprocess.run([sys.executable, "-m", "seg", *arguments], check=True)
    found = np.asarray(Image.open("out/cells_classes.png")) > 0
    wanted = mean_of([bundle.load("a"), bundle.load("b")], engine="onnx") > 0.5
    assert (found == wanted[..., 0]).mean() > 0.999
    for name in "ab":
        assert not bundle.load(name).exports
