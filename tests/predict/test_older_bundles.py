"""Claims about bundles that earlier versions have written: they still work.

fixtures/bundle_format_1 was written by seg 0.1.0 (jax 0.10.2), with both
exports, and never changes; bundle_format_1.npz has an image and its map, then.
"""

import pathlib

import numpy as np
import pytest
from jax import export as jax_export

from seg import normalize
from seg.predict import bundle, engine, predictor

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def older():
    return bundle.load(FIXTURES / "bundle_format_1")


@pytest.fixture(scope="module")
def known():
    found = np.load(FIXTURES / "bundle_format_1.npz")
    assert np.ptp(found["probabilities"], (0, 1)).max() > 0.9
    return found


@pytest.mark.parametrize("name", ["jax", "onnx", "openvino"])
def test_it_gives_the_map_that_it_gave(older, known, name):
    if name in engine.MODULES and not engine.installed(engine.MODULES[name]):
        pytest.skip(f"{name} is not installed")
    use = predictor.Predictor(older, engine=name)
    found = use.probabilities(known["image"])
    near = 1e-5 if name == "jax" else 1e-3
    if name == "openvino":  # bfloat16 where the processor has it
        near = 0.05
    np.testing.assert_allclose(found, known["probabilities"], atol=near)
    assert older.meta["made_by"] == "seg 0.1.0"
    assert use.classes == ("background", "nucleus", "border")


def test_its_program_runs(older, known):
    program = jax_export.deserialize(bytearray(older.exports[bundle.PROGRAM]))
    image = known["image"][None].astype(np.float32)
    n = program.in_avals[1].shape[-1]  # columns that there were then
    stats = normalize.measure(known["image"])[None, :, :n]
    found = np.asarray(program.call(image, stats))
    wanted = np.asarray(known["probabilities"])
    assert found.shape[1:] == wanted.shape
    # one window is the whole image, where the map has several
    agree = found[0].argmax(-1) == wanted.argmax(-1)
    assert agree.mean() > 0.9
