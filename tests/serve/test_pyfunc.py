"""A bundle goes into MLflow and comes out as the same model, no pickle."""

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import types

import mlflow
import numpy as np
import pytest
from flax import nnx

import seg
from seg import config, models
from seg.predict import bundle
from seg.train import tracking
from seg.train.tracking import upload


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a small model: (its tracker, its bundle, its URI)."""
    folder = tmp_path_factory.mktemp("run")
    changes = {"model.width": 4, "model.depth": 2, "predict.tile": 32}
    settings = config.replace(config.Config(), changes)
    network = models.build(settings.model, nnx.Rngs(0))
    path = folder / "bundle"
    bundle.save(bundle.from_model(settings, network), path)
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = tracking.build(config.Track(uri=uri), folder / "work")
    tracker.start(settings, {})
    tracker.model(path)
    tracker.finish("FINISHED")
    return tracker, path, uri


@pytest.fixture
def logged(run, monkeypatch):
    """The same, with MLflow's environment turned to it."""
    upload.library()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", run[2])
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return run


def test_the_model_in_mlflow_predicts_what_the_bundle_predicts(
    logged, tmp_path
):
    tracker, path, _ = logged
    model = mlflow.pyfunc.load_model(f"runs:/{tracker.run_id}/model")
    images = np.random.default_rng(0).uniform(0, 255, (2, 40, 33, 1))
    labels = model.predict(images.astype(np.float32))
    assert labels.dtype == np.int32 and labels.shape == (2, 40, 33)
    predictor = seg.load(shutil.copytree(path, tmp_path / "own"))
    for image, found in zip(images, labels, strict=True):
        expected = predictor(image.astype(np.float32)).labels
        np.testing.assert_array_equal(found, expected)
    whole = images.astype(np.uint8)
    labels = model.predict(whole.astype(np.float32), {"dtype": "uint8"})
    np.testing.assert_array_equal(labels[0], predictor(whole[0]).labels)


def test_what_does_not_fit_the_signature_is_refused(logged):
    model = mlflow.pyfunc.load_model(f"runs:/{logged[0].run_id}/model")
    colour = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(mlflow.MlflowException, match="shape"):
        model.predict(colour)
    with pytest.raises(config.UserError, match="dtype 'uint9'"):
        model.predict(colour[..., :1], {"dtype": "uint9"})


def test_the_class_alone_segments_a_batch(logged):
    from seg.serve import pyfunc  # mlflow's import warns

    segmenter = pyfunc.Segmenter()
    context = types.SimpleNamespace(artifacts={"bundle": logged[1]})
    segmenter.load_context(context)
    images = np.random.default_rng(0).uniform(0, 255, (2, 20, 33, 1))
    labels = segmenter.predict(context, images, {"dtype": "uint8"})
    assert labels.dtype == np.int32 and labels.shape == (2, 20, 33)
    with pytest.raises(config.UserError, match="dtype"):
        segmenter.predict(context, images, {"dtype": "int"})


def test_the_model_stands_once_however_often_it_is_uploaded(logged):
    tracker, _, uri = logged
    spool = pathlib.Path(tracker.spool.path)
    for _ in range(2):
        spool.with_suffix(".sent").unlink()
        tracking.sync(spool.parent, uri)
    client = mlflow.MlflowClient(uri)
    outputs = client.get_run(tracker.run_id).outputs.model_outputs
    assert len(outputs) == 1
    assert client.get_logged_model(outputs[0].model_id).status == "READY"


def test_no_file_of_the_model_is_a_pickle(logged):
    tracker, _, _ = logged
    folder = pathlib.Path(
        mlflow.artifacts.download_artifacts(f"runs:/{tracker.run_id}/model")
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    ends = {path.suffix for path in files}
    assert not ends & {".pkl", ".pickle", ".pth", ".npy", ".joblib"}
    assert all(path.read_bytes()[:1] != b"\x80" for path in files)
    needed = (folder / "requirements.txt").read_text()
    assert "jax==" in needed and "seg" not in needed.split()


def test_the_bundle_is_fetched_by_run_and_by_name(logged):
    tracker, path, uri = logged
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.register_model(f"runs:/{tracker.run_id}/model", "nuclei")
    finally:
        mlflow.set_tracking_uri(None)
    for source in (
        f"runs:/{tracker.run_id}",
        f"runs:/{tracker.run_id}/model",
        "models:/nuclei/1",
    ):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MLFLOW_TRACKING_URI", uri)
            folder = tracking.fetch_bundle(source)
        assert {f.name: f.read_bytes() for f in folder.iterdir()} == whole


@pytest.mark.parametrize("source", ["runs:/nowhere/model", "models:/none/1"])
def test_what_is_not_in_mlflow_is_refused(source, logged):
    with pytest.raises(config.UserError, match="cannot be fetched"):
        tracking.fetch_bundle(source)


def test_an_artifact_that_is_no_bundle_is_refused(logged):
    with pytest.raises(config.UserError, match="holds no bundle"):
        tracking.fetch_bundle(f"runs:/{logged[0].run_id}/config.json")


def test_the_environment_is_left_as_it_was(logged, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(config.UserError, match="set MLFLOW_TRACKING_URI"):
        tracking.fetch_bundle("runs:/nowhere/model")
    assert not pathlib.Path("mlflow.db").exists()
    shutil.copy(logged[2].removeprefix("sqlite:///"), "mlflow.db")
    assert tracking.fetch_bundle(f"runs:/{logged[0].run_id}").is_dir()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_the_model_brings_its_own_code(logged, tmp_path):
    tracker, _, _ = logged
    code = """
        import sys
        sys.path = [path for path in sys.path if path != sys.argv[3]]
        import mlflow, numpy as np
        model = mlflow.pyfunc.load_model(sys.argv[1])
        import seg
        assert seg.__file__.startswith(sys.argv[2]), seg.__file__
        print(model.predict(np.zeros((1, 8, 8, 1), np.float32)).shape)
    """
    where = mlflow.artifacts.download_artifacts(
        f"runs:/{tracker.run_id}/model", dst_path=str(tmp_path)
    )
    root = str(pathlib.Path(seg.__file__).parents[1])
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), where, tmp_path, root],
        capture_output=True,
        text=True,
    )
    assert out.stdout == "(1, 8, 8)\n", out.stderr
