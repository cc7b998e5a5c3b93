"""A package of the BioImage Model Zoo passes its validator and is the model."""

import dataclasses
import gc
import io
import json
import zipfile

import numpy as np
import pytest

from seg import config, normalize
from seg.predict import bioimage, predictor

spec = pytest.importorskip("bioimageio.spec")
# it leaves a picture open
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


AUTHOR = {"licence": "CC0-1.0", "author": "A. Person"}


def unpacked(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("scaling", ["percentile", "minmax", "standard"])
def test_the_package_is_valid_and_computes_what_the_model_does(
    tmp_path, make_bundle, scaling
):
    runtime = pytest.importorskip("onnxruntime")
    bundle = make_bundle(data__normalize=scaling, predict__tile=128)
    bundle = dataclasses.replace(bundle, meta=AUTHOR)
    path = bioimage.package(bundle, tmp_path / "tiny.zip", "tiny")
    with spec.ValidationContext(perform_io_checks=True):
        summary = spec.load_description(path).validation_summary
    gc.collect()  # the warning, while it is expected
    assert summary.status in ("passed", "valid-format"), summary.format()

    files = unpacked(path)
    about = json.loads(files["rdf.yaml"])
    image = np.load(io.BytesIO(files["test_input.npy"]))
    found = np.load(io.BytesIO(files["test_output.npy"]))
    # as another program would: scaled by the description's own words
    (step,) = about["inputs"][0]["preprocessing"]
    knobs = step["kwargs"]
    if step["id"] == "scale_range":
        ends = [knobs["min_percentile"], knobs["max_percentile"]]
        low, high = np.percentile(image, ends, axis=(1, 2), keepdims=True)
    else:
        low = image.mean((1, 2), keepdims=True)
        high = low + image.std((1, 2), keepdims=True)
    scaled = (image - low) / (high - low + knobs["eps"])
    session = runtime.InferenceSession(files["weights.onnx"])
    assert [port.name for port in session.get_inputs()] == ["image"]
    (theirs,) = session.run(None, {"image": scaled.astype(np.float32)})
    np.testing.assert_allclose(theirs, found, atol=2e-3)
    use = predictor.Predictor(bundle, engine="jax")
    stats = normalize.measure(image[0])
    np.testing.assert_allclose(
        use.probabilities(image[0], stats), found[0], atol=2e-3
    )


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"data__normalize": "invert + range"}, "has no place in bioimage.io"),
        ({"data__resize": 64, "data__tile": 64}, "images at one size"),
    ],
)
def test_what_the_zoo_cannot_say_is_refused(
    tmp_path, make_bundle, knobs, message
):
    with pytest.raises(config.UserError, match=message):
        bundle = dataclasses.replace(make_bundle(**knobs), meta=AUTHOR)
        bioimage.package(bundle, tmp_path / "tiny.zip", "tiny")
    assert not (tmp_path / "tiny.zip").exists()


def test_a_licence_is_never_invented(tmp_path, tiny):
    for meta in ({}, {"licence": "MIT"}, {"author": "A. Person"}):
        bundle = dataclasses.replace(tiny, meta=meta)
        with pytest.raises(config.UserError, match="does not say its"):
            bioimage.package(bundle, tmp_path / "tiny.zip", "tiny")
