"""A bundle goes into MLflow and comes out as the same model, no pickle."""

import base64
import contextlib
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request

import mlflow
import numpy as np
import pandas
import pytest
import tifffile
from flax import nnx
from PIL import Image

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


def photos(n=2, shape=(40, 33)):
    """A table of PNG files, and their pixels."""
    draw = np.random.default_rng(0)
    pixels = [draw.integers(0, 255, shape).astype(np.uint8) for _ in range(n)]
    cells = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        cells.append(file.getvalue())
    return pandas.DataFrame({"image": cells}), pixels


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def check(answer, pixels, predictor):
    """An answer, rows as dicts, is what the predictor finds."""
    assert len(answer) == len(pixels)
    for row, image in zip(answer, pixels, strict=True):
        expected = predictor(image)
        np.testing.assert_array_equal(decoded(row["labels"]), expected.labels)
        assert row["n_objects"] == len(expected.table) > 0
        areas = [each["area_px"] for each in json.loads(row["objects"])]
        assert areas == [each["area_px"] for each in expected.table]


def test_the_model_in_mlflow_predicts_what_the_bundle_predicts(
    logged, tmp_path
):
    tracker, path, _ = logged
    model = mlflow.pyfunc.load_model(f"runs:/{tracker.run_id}/model")
    table, pixels = photos()
    found = model.predict(table)
    predictor = seg.load(shutil.copytree(path, tmp_path / "own"))
    check(found.to_dict("records"), pixels, predictor)
    text = table.map(lambda cell: base64.b64encode(cell).decode())
    again = model.unwrap_python_model().predict(None, text)
    pandas.testing.assert_frame_equal(again, found)


def test_the_model_has_an_example_that_works(logged):
    tracker, _, _ = logged
    model = mlflow.pyfunc.load_model(f"runs:/{tracker.run_id}/model")
    found = model.predict(model.input_example)
    assert decoded(found["labels"][0]).shape == (64, 64)


@pytest.mark.slow
def test_mlflow_serves_it_over_http(logged, tmp_path):
    tracker, path, _ = logged
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve",
         "-m", f"runs:/{tracker.run_id}/model", "--env-manager=local",
         "-p", str(port), "-w", "1"],
        stdout=log, stderr=log, start_new_session=True,
        # it looks for uvicorn
        env={**os.environ, "PATH": os.pathsep.join(
            [os.path.dirname(sys.executable), os.environ["PATH"]])},
    )  # fmt: skip
    table, pixels = photos(1)

    def ask(content):
        cell = base64.b64encode(content).decode()
        body = {"dataframe_split": {"columns": ["image"], "data": [[cell]]}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["predictions"]

    try:
        for _ in range(240):
            try:
                found = ask(table["image"][0])
                break
            except urllib.error.URLError as error:
                assert not isinstance(error, urllib.error.HTTPError), (
                    error.read()
                )
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(b"nothing")
        told = json.load(refused.value)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        log.close()
    assert refused.value.code == 400
    assert told["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "row 0: image: not an image" in told["message"]
    assert "Traceback" not in json.dumps(told)
    check(found, pixels, seg.load(shutil.copytree(path, tmp_path / "own")))


def test_what_does_not_fit_is_refused(logged):
    model = mlflow.pyfunc.load_model(f"runs:/{logged[0].run_id}/model")
    with pytest.raises(mlflow.MlflowException, match="image"):
        model.predict(pandas.DataFrame({"picture": [b""]}))
    with pytest.raises(mlflow.MlflowException, match=r"row 0: .*not an image"):
        model.predict(pandas.DataFrame({"image": [b"nothing"]}))
    own = model.unwrap_python_model()
    with pytest.raises(mlflow.MlflowException, match="neither bytes nor"):
        own.predict(None, {"image": ["?"]})
    with pytest.raises(mlflow.MlflowException, match="no column 'image'") as no:
        own.predict(None, {})
    assert no.value.get_http_status_code() == 400


def test_many_objects_come_as_tiff():
    from seg.serve import pyfunc  # mlflow's import warns

    labels = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
    file = base64.b64decode(pyfunc._encoded(labels))
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(file)), labels)


def test_the_best_of_a_registered_name_is_its_champion(tmp_path):
    upload.library()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    champions = []
    for i, score in enumerate((0.5, 0.7, 0.6, None)):
        changes = {
            "model.width": 4, "model.depth": 1, "predict.tile": 32,
            "track.uri": uri, "track.register": "cells",
        }  # fmt: skip
        settings = config.replace(config.Config(), changes)
        network = models.build(settings.model, nnx.Rngs(i))
        metrics = {} if score is None else {"val/dice": score}
        meta = {"metrics": metrics}
        path = bundle.save(
            bundle.from_model(settings, network, meta), tmp_path / f"b{i}"
        )
        tracker = tracking.build(settings.track, tmp_path / f"w{i}")
        tracker.start(settings, {})
        tracker.model(path)
        tracker.finish("FINISHED")
        found = client.get_model_version_by_alias("cells", "champion")
        champions.append(int(found.version))
    assert champions == [1, 2, 2, 2]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", uri)
        best = bundle.load(seg.find("models:/cells@champion"))
    assert best.meta["metrics"]["val/dice"] == 0.7


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


@pytest.mark.parametrize("told", [False, True])
def test_an_upload_that_broke_off_is_completed(logged, told):
    _, path, uri = logged
    name = f"broken-{told}"
    tracker = tracking.build(
        config.Track(uri="jsonl:spool", experiment=name), "work"
    )
    tracker.start(bundle.load(path).config, {})
    tracker.metrics(0, {"model/parameters": 2.0})
    for _ in range(2):  # as a run that was killed here, and goes on
        tracker.model(path)
    tracker.finish("FINISHED")
    (folder,) = pathlib.Path("spool").iterdir()
    runs = pathlib.Path(uri.removeprefix("sqlite:///")).parent / "mlruns"
    wall = runs / name / "models"  # no model can be written there
    wall.parent.mkdir(parents=True)
    wall.touch()
    with pytest.raises(config.UserError, match="run the same command again"):
        tracking.sync(folder, uri)
    client = mlflow.MlflowClient(uri)
    run_id = (folder / "run_id").read_text().strip()
    experiment = client.get_run(run_id).info.experiment_id
    (entity,) = client.search_logged_models([experiment])
    assert entity.status == "PENDING"
    if told:  # as MLflow's own Model.log does first
        output = mlflow.entities.LoggedModelOutput(entity.model_id, step=0)
        client.log_outputs(run_id, [output])
        # and as what was begun for another state of the bundle
        client.set_logged_model_tags(entity.model_id, {"seg.record": "1"})

    wall.unlink()
    assert tracking.sync(folder, uri) == {folder: run_id}
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    (output,) = run.outputs.model_outputs
    (found,) = client.search_logged_models([experiment])
    assert output.model_id == found.model_id == entity.model_id
    assert found.status == "READY"
    if not told:
        sizes = {one.key: one.value for one in found.metrics}
        assert sizes == {"model/parameters": 2.0}
    table, pixels = photos(1)
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    answer = model.predict(table).to_dict("records")
    check(answer, pixels, seg.load(shutil.copytree(path, "own")))


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
        print(model.predict(model.input_example).shape)
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
    assert out.stdout == "(1, 3)\n", out.stderr
