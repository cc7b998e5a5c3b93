"""Claims about the engines for CPUs: JAX's numbers, without JAX."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from seg import config, normalize
from seg.predict import bundle, engine, predictor
from seg.predict.engine import graphs
from seg.predict.graph import walk


def grey(*shape):
    draw = np.random.default_rng(shape)
    return draw.integers(0, 255, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def with_graph(tiny):
    return predictor.Predictor(tiny, engine="onnx").bundle


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("shape", [(32, 32), (50, 71), (7, 100)])
def test_probabilities_are_those_of_jax(with_graph, name, shape):
    image = grey(*shape)
    wanted = predictor.Predictor(with_graph, engine="jax")
    found = predictor.Predictor(with_graph, engine=name)
    assert found._engine.name == name
    a, b = wanted.probabilities(image), found.probabilities(image)
    tolerance = 1e-5 if name == "onnx" else 0.1  # perhaps bfloat16
    np.testing.assert_allclose(b, a, atol=tolerance)
    assert a.std() > 0.01


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_statistics_that_nobody_reads_do_no_harm(make_bundle, name):
    plain = make_bundle(data__normalize="none", train__augment=False)
    image = grey(32, 32).astype(np.float32) / 255
    a, b = (
        predictor.Predictor(plain, engine=engine).probabilities(image)
        for engine in ("jax", name)
    )
    np.testing.assert_allclose(b, a, atol=0.1)


def test_openvino_in_float32_is_exact(with_graph):
    content = with_graph.exports[bundle.GRAPH]
    image = grey(2, 32, 32, 1).astype(np.float32)
    stats = np.stack([normalize.measure(one) for one in image])
    runs = [
        graphs.OpenVino(content, 4, "f32"), graphs.OnnxRuntime(content, 4)
    ]  # fmt: skip
    a, b = (run.call(image, stats) for run in runs)
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.fixture
def any_processor(monkeypatch):
    """One with bfloat16, whose results are those of float32, or the reverse."""
    compute = graphs.OpenVino._run

    def halves(found):  # weights of chance see but one class
        return found[..., 0] > np.median(found[..., 0])

    def make(turned):
        def run(self, image, stats, dtype):
            found = compute(self, image, stats, "f32")
            return 1 - found if turned and dtype == "bf16" else found

        monkeypatch.setattr(engine, "has_bfloat16", lambda: True)
        monkeypatch.setattr(graphs.OpenVino, "_run", run)
        monkeypatch.setattr(graphs, "_classes", halves)

    return make


def test_bfloat16_that_changes_the_classes_is_given_up(
    with_graph, any_processor, caplog
):
    caplog.set_level("DEBUG", logger=graphs.__name__)
    image = grey(1, 32, 32, 1).astype(np.float32)
    stats = np.stack([normalize.measure(one) for one in image])
    content = with_graph.exports[bundle.GRAPH]
    exact = graphs.OpenVino(content, 4, "f32").call(image, stats)
    any_processor(turned=True)
    tool = graphs.OpenVino(content, 4)
    np.testing.assert_array_equal(tool.call(image, stats), exact)
    assert caplog.text.count("float32 it is") == 1


@pytest.mark.parametrize(("turned", "dtype"), [(False, "bf16"), (True, "f32")])
def test_a_model_computes_in_one_type_whatever_it_saw_before(
    with_graph, any_processor, turned, dtype
):
    any_processor(turned=turned)
    tool = graphs.OpenVino(with_graph.exports[bundle.GRAPH], 4)
    assert tool._dtype == dtype
    for image in (grey(32, 32), np.zeros((32, 32), np.uint8)):
        tool.run(image[None, ..., None], normalize.measure(image[..., None]))
        assert tool._dtype == dtype


def test_a_network_without_a_graph_runs_by_jax_where_the_choice_is_free(
    make_bundle, monkeypatch, caplog
):
    other = make_bundle(model__norm="group")
    monkeypatch.delitem(walk.RULES, "rsqrt")  # of an operation not yet met
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert predictor.Predictor(other)._engine.name == "jax"
    assert "JAX runs the network" in caplog.text
    with pytest.raises(config.UserError, match=r"rsqrt .* StableHLO"):
        predictor.Predictor(other, engine="onnx")


def test_a_network_in_bfloat16_is_one_in_float32_here(make_bundle):
    knobs = {"model__name": "attention_unet", "model__dropout": 0.1}
    half = make_bundle(model__dtype="bfloat16", **knobs)
    image = grey(32, 32)
    found, wanted = (
        predictor.Predictor(each, engine="onnx").probabilities(image)
        for each in (half, make_bundle(**knobs))
    )
    np.testing.assert_array_equal(found, wanted)
    exact = predictor.Predictor(half, engine="jax").probabilities(image)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert found.std() > 0.01


def test_auto_takes_what_is_installed(monkeypatch):
    def there(*modules):
        monkeypatch.setattr(engine, "installed", lambda m: m in modules)
        return engine.choose("auto")

    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(engine, "_DEVICES", [os.devnull])
    assert there() == "jax"
    assert there("onnxruntime") == "onnx"
    assert there("onnxruntime", "openvino") == "openvino"
    assert there("openvino", "jax_cuda12_plugin") == "jax"
    monkeypatch.setattr(engine, "_DEVICES", ["/dev/no-such-thing*"])
    assert there("openvino", "jax_cuda12_plugin") == "openvino"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert there("openvino", "jax_cuda12_plugin") == "openvino"
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert there("openvino") == "jax"


def test_an_engine_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(engine, "installed", lambda module: False)
    with pytest.raises(config.UserError, match=r"pip install -e \.\[export\]"):
        engine.choose("openvino")
    with pytest.raises(config.UserError, match="did you mean openvino"):
        engine.choose("openvno")


_WITHOUT_JAX = """
import os, sys, numpy as np
os.register_at_fork(before=lambda: print("forked"))
from seg.predict import bundle, predictor
use = predictor.Predictor(bundle.load(sys.argv[1]), engine=sys.argv[2])
found = use(np.arange(3600, dtype=np.uint16).reshape(60, 60) % 251)
assert found.labels.shape == (60, 60)
assert sys.modules.get("openvino_telemetry") is None
print(*({"jax", "flax", "onnx", "tensorflow"} & set(sys.modules)))
"""


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_bundle_with_its_graph_needs_no_jax(tmp_path, with_graph, name):
    bundle.save(dataclasses.replace(with_graph, exports={}), tmp_path / "a")
    bundle.add_files(tmp_path / "a", with_graph, with_graph.exports)
    again = bundle.load(tmp_path / "a")
    assert again.exports.keys() == {bundle.GRAPH} and again.stride == 4
    command = [sys.executable, "-c", _WITHOUT_JAX, str(tmp_path / "a"), name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
