"""`python -m launch.evaluate`: scores, files, and the run they belong to."""

import csv
import dataclasses
import json
import pathlib
import runpy
import shutil

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import seg
from seg import config, models
from seg.data import records
from seg.evaluate import metrics
from seg.predict import bundle
from seg.train.tracking import upload


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A fresh MLflow database, which takes seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    upload.library().MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def client(database, tmp_path, monkeypatch):
    """MLflow's own client of the database that runs here use."""
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(database, tmp_path / "mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def arguments(prepared, *more):
    return (
        f"--experiment={prepared / 'tiny.py'}",
        f"--tiles={prepared / 'tiles.npz'}",
        "--workdir=work",
        *more,
    )


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_the_scores_are_written_and_join_the_run_of_the_training(
    launch, prepared, client
):
    status, out, err = launch("train", *arguments(prepared))
    assert status == 0, err
    status, out, err = launch("evaluate", *arguments(prepared))
    assert status == 0, err

    # printed, beside Otsu's threshold
    header = out.splitlines()[0]
    assert "unet" in header and "otsu" in header.lower()
    assert "| dice " in out and "| ap50 " in out and " to " in out
    assert "overlays, objects and scores are in work/test" in out

    # written
    folder = pathlib.Path("work/test")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"overlays", "curves", "objects.csv", "images.csv"}
    shown = {path.stem for path in (folder / "overlays").iterdir()}
    assert shown == {"worst_1", "best_1", "first_1", "first_2"}
    scores = json.loads((folder / "scores.json").read_text())
    assert "test/dice" in json.dumps(scores)
    images = rows(folder / "images.csv")
    assert [row["image"] for row in images] == sorted(
        row["image"] for row in images
    ) and len(images) == 2
    mean = np.mean([float(row["dice"]) for row in images])

    # in the one run that the training made
    runs = client.search_runs(
        [e.experiment_id for e in client.search_experiments()]
    )
    (run,) = [run for run in runs if run.info.run_name == "work"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/dice"] == pytest.approx(mean, abs=1e-6)
    wanted = {"test/iou", "test/ap50", "test/ap_mean", "test/pq", "val/dice"}
    wanted |= {"test/count_error", "test/dice_low", "test/dice_high"}
    assert run.data.metrics.keys() >= wanted | {"train/loss"}
    low, high = (
        run.data.metrics["test/dice_low"],
        run.data.metrics["test/dice_high"],
    )
    assert low <= run.data.metrics["test/dice"] <= high
    points = client.get_metric_history(run.info.run_id, "test/dice")
    best = bundle.load("work/bundle").meta["step"]
    assert [point.step for point in points] == [best]
    top = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert top >= {"config.json", "overlays", "curves", "objects.csv"}

    # scored again, with other settings: the same run, the new scores
    status, _, err = launch(
        "evaluate", *arguments(prepared), "--predict.min_area=10000"
    )
    assert status == 0, err
    again = client.get_run(run.info.run_id)
    assert again.info.status == "FINISHED"
    assert again.data.metrics["test/count_error"] == 1
    assert rows(folder / "objects.csv") == []

    # with what they were measured beside them, in the file and in MLflow
    told = json.loads((folder / "scores.json").read_text())["settings"]
    assert told["predict.min_area"] == [10000]
    assert told["model"] == bundle.digest(bundle.load("work/bundle"))
    assert again.data.tags["test/predict.min_area"] == "10000"
    assert again.data.tags["test/model"] == told["model"]
    assert again.data.params["predict.min_area"] == "3"

    # another split takes nothing away from the test
    status, _, err = launch("evaluate", *arguments(prepared), "--split=val")
    assert status == 0, err
    inside = client.list_artifacts(run.info.run_id, "val")
    assert {item.path for item in inside} >= {"val/overlays", "val/objects.csv"}
    again = client.get_run(run.info.run_id)
    assert again.data.tags["test/predict.min_area"] == "10000"
    assert again.data.tags["val/predict.min_area"] == "3"
    assert again.info.end_time == run.info.end_time

    # how the training goes is not for an evaluation to say
    for status in ("RUNNING", "KILLED"):
        client.update_run(run.info.run_id, status)
        code, _, err = launch("evaluate", *arguments(prepared), "--nobaseline")
        assert code == 0, err
        assert client.get_run(run.info.run_id).info.status == status


@pytest.fixture(scope="module")
def model(prepared, tmp_path_factory):
    """A model that finds what is brighter than half of its range."""
    tiny = runpy.run_path(str(prepared / "tiny.py"))["get_config"]()
    tiny = config.replace(
        tiny, {"model.norm": None, "data.normalize": "minmax"}
    )
    network = nnx.eval_shape(lambda: models.build(tiny.model, nnx.Rngs(0)))
    draw = np.random.default_rng(0)
    weights = {
        "/".join(map(str, path)): draw.normal(0, 1, value.shape).astype("f4")
        for path, value in nnx.to_flat_state(nnx.state(network))
    }
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return bundle.save(bundle.Bundle(tiny, weights, {"step": 3}), folder)


def test_a_model_from_elsewhere_is_scored_on_ones_own_data(
    launch, prepared, model
):
    told = arguments(prepared, f"--model={model}", "--out=scores")
    told = [a for a in told if not a.startswith("--workdir")]
    status, out, err = launch("evaluate", *told, "--split=val", "--nobaseline")
    assert status == 0, err
    assert "otsu" not in out.lower()
    assert len(rows("scores/images.csv")) == 2
    names = {path.name for path in pathlib.Path().iterdir()}
    assert names == {"scores"}  # no run is touched, no record made
    for path in pathlib.Path("scores/overlays").iterdir():
        with Image.open(path) as image:
            assert min(image.size) >= 48


@pytest.mark.parametrize("more", [(), ("--predict.threshold=1",)])
def test_a_model_from_elsewhere_predicts_as_it_was_tuned_to(
    launch, prepared, model, tmp_path, more
):
    """Not as the experiment says, which it takes its data from."""
    found = bundle.load(model)
    tuned = config.replace(found.config, {"predict.threshold": 0.0})
    bundle.save(dataclasses.replace(found, config=tuned), tmp_path / "tuned")
    told = arguments(prepared, f"--model={tmp_path / 'tuned'}", "--out=scores")
    told = [a for a in told if not a.startswith("--workdir")]
    status, _, err = launch("evaluate", *told, "--split=val", *more)
    assert status == 0, err
    found = sum(int(row["n_found"]) for row in rows("scores/images.csv"))
    assert (found > 0) == (not more)


def test_the_dice_told_is_that_of_the_classes_predicted(
    launch, prepared, model
):
    told = arguments(prepared, f"--model={model}", "--out=scores")
    status, _, err = launch("evaluate", *told[:2], *told[3:], "--nobaseline")
    assert status == 0, err
    data, predict = records.open_pack(prepared / "tiles.npz"), seg.load(model)
    for i, row in enumerate(rows("scores/images.csv")):
        record = data.read("test", i)
        found = predict(record["image"])
        dice, _ = metrics.foreground(found.classes, record["classes"])
        assert row["image"] == record["id"]
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
        assert int(row["n_found"]) == found.labels.max()


def test_where_a_password_was_not_kept_the_environment_says_the_server(
    launch, prepared, model, client
):
    found = bundle.load(model)
    uri = {"track.uri": "https://***@127.0.0.1:9"}
    told = config.replace(found.config, uri)
    bundle.save(bundle.Bundle(told, found.weights, found.meta), "work/bundle")
    pathlib.Path("work/config.json").write_text(config.to_json(told))
    status, _, err = launch("evaluate", *arguments(prepared))
    assert (status, err) == (0, "")
    run = client.get_run(pathlib.Path("work/run_id").read_text().strip())
    assert "test/dice" in run.data.metrics


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--workdir=absent"], "absent"),
        (["--model=absent"], "absent"),
        (["--split=tset"], "tset"),
        (["--model=MODEL", "--out="], "where shall the results go"),
        (["--model=MODEL", "--tiles=absent.npz"], "no pack at absent.npz"),
        (["--model=MODEL", "--tiles=lone.npz"], "no image to evaluate"),
        (["--model=MODEL", "--predict.tta=3"], "predict.tta=3; choose"),
        (["--workdir=MODEL"], "is a model, no run; give --model="),
        (["--workdir=moved"], "moved: nothing was trained there"),
        (["--model=MODEL", "--out=file/x"], "file/x: cannot be written"),
        (["--model=MODEL", "--tiles="], "not prepared"),
        (["--model=MODEL", "--tune"], "give --split=val"),
        (["--model=MODEL,MODEL", "--tune", "--split=val"], "one model"),
    ],
)
def test_what_cannot_be_scored_is_one_line(launch, prepared, model, more, text):
    data = records.open_pack(prepared / "tiles.npz")
    records.pack(data, data.config, "lone.npz", ["train"])
    pathlib.Path("file").touch()
    shutil.copytree(model, "moved/bundle")
    more = [a.replace("MODEL", str(model)) for a in more]
    told = [*arguments(prepared)[:2], "--out=scores", *more]
    status, out, err = launch("evaluate", *told)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert text in err


def test_the_snapshots_of_a_run_are_scored_as_their_mean(launch, prepared):
    knobs = ("--optim.cycles=2", "--optim.ema=0", "--track.uri=none")
    status, _, err = launch("train", *arguments(prepared, *knobs))
    assert status == 0, err
    status, out, err = launch(
        "evaluate",
        f"--tiles={prepared / 'tiles.npz'}",
        "--model=work/snapshots",
        "--out=scores",
    )
    assert status == 0, err
    assert "| dice " in out
    told = json.loads(pathlib.Path("scores/scores.json").read_text())
    models = [bundle.load(f"work/snapshots/{k}") for k in (1, 2)]
    assert told["settings"]["model"] == ",".join(map(bundle.digest, models))


def test_tuned_settings_stay_with_the_model(launch, prepared, client):
    status, _, err = launch("train", *arguments(prepared))
    assert status == 0, err
    before = bundle.load("work/bundle")
    tune = "--tune", "--nobaseline", "--monitor=dice"
    plain = f"--tiles={prepared / 'tiles.npz'}", "--workdir=work"
    status, out, err = launch("evaluate", *plain, "--split=val", *tune)
    assert status == 0, err
    assert "(the best of" in out and "calibration error" in out
    after = bundle.load("work/bundle")
    assert bundle.digest(after) == bundle.digest(before)
    assert after.meta["tuned"]["images"] == 2
    tried = rows(pathlib.Path("work/val/tried.csv"))
    best = max(float(row["dice"]) for row in tried)
    predict = after.config.predict
    assert str(predict.threshold) in {
        row["threshold"] for row in tried if float(row["dice"]) == best
    }

    # an evaluation uses them without being told, and says so
    status, _, err = launch("evaluate", *plain, "--split=val", "--nobaseline")
    assert status == 0, err
    scores = json.loads(pathlib.Path("work/val/scores.json").read_text())
    assert scores["metrics"]["val/dice"] == pytest.approx(best)
    assert scores["settings"]["predict.threshold"] == predict.threshold
