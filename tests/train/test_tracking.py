"""Every metric of a run arrives once, whatever the server does."""

import itertools
import json
import logging
import math
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request

import pytest

from seg import config
from seg.train import tracking
from seg.train.tracking import background, environment, names, upload

_TAGS = {"data_digest": "abc", "note": "http://me:secret@host/x"}


def _config(uri="", **changes):
    changes = {"track." + key: value for key, value in changes.items()}
    return config.replace(config.Config(), {"track.uri": uri} | changes)


def _track(workdir, uri="", steps=(), status="FINISHED", **changes):
    """A whole small training; returns its tracker."""
    settings = _config(uri, **changes)
    tracker = tracking.build(settings.track, workdir)
    tracker.start(settings, _TAGS)
    for step in steps:
        tracker.metrics(step, {"train/loss": 1 / (step + 1), "val/dice": step})
    tracker.finish(status)
    return tracker


def _steps(client, run_id, name="train/loss"):
    return [point.step for point in client.get_metric_history(run_id, name)]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A fresh database, which takes MLflow some seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    upload.library().MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def client(empty_database, tmp_path, monkeypatch):
    """MLflow's own client of the database that trackers use by default."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return upload.library().MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_run_on_sqlite_is_recorded_whole(client, tmp_path, capfd):
    settings = _config(run_name="first", experiment="nuclei é/1")
    tracker = tracking.build(settings.track, "work")
    tracker.start(settings, _TAGS)
    tracker.metrics(0, {"train/loss": 0.5, "val/dice a%": math.inf})
    tracker.metrics(1, {"train/loss": math.nan, "val/dice a%": -math.inf})
    pathlib.Path("table.csv").write_text("a,b")
    tracker.artifact("table.csv", "tables")
    os.remove("table.csv")
    tracker.finish("FINISHED")

    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "first"
    assert pathlib.Path("work/run_id").read_text().strip() == tracker.run_id
    assert run.data.params["model.name"] == "unet"
    assert run.data.params["augment.scale_range"] == "0.8,1.25"
    assert len(run.data.params) == len(config.to_flat(settings))
    assert run.data.tags["data_digest"] == "abc"
    assert run.data.tags["hardware"] and run.data.tags["git_commit"]
    loss = client.get_metric_history(tracker.run_id, "train/loss")
    assert loss[0].value == 0.5
    assert math.isnan(loss[1].value)
    cleaned = client.get_metric_history(tracker.run_id, "val/dice a_")
    assert [math.isnan(point.value) for point in cleaned] == [True, True]
    whole = client.download_artifacts(tracker.run_id, "config.json")
    assert config.from_json(pathlib.Path(whole).read_text()) == settings
    table = client.download_artifacts(tracker.run_id, "tables/table.csv")
    assert pathlib.Path(table).read_text() == "a,b"
    assert (tmp_path / "mlruns").is_dir()
    assert capfd.readouterr() == ("", "")


def test_after_a_resume_each_step_stands_once(client):
    first = _track("work", steps=range(10), status="KILLED")
    assert client.get_run(first.run_id).info.status == "KILLED"
    again = _track("work", steps=range(5, 20))
    assert again.run_id == first.run_id and again.run == first.run
    assert _steps(client, first.run_id) == list(range(20))
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert "config_changed" not in run.data.tags


def test_what_is_measured_anew_for_a_step_counts_if_it_differs(client):
    _track("work", steps=[3])
    tracker = tracking.build(_config().track, "work")
    tracker.start(_config(), {})
    for _ in range(2):
        tracker.metrics(3, {"test/dice": 0.8, "train/loss": 0.25}, again=True)
        tracker.metrics(3, {"test/dice": 0.9}, again=True)
        tracker.metrics(3, {"test/dice": 0.7})
    tracker.finish("FINISHED")
    assert _steps(client, tracker.run_id) == [3]
    assert client.get_run(tracker.run_id).data.metrics["test/dice"] == 0.9
    values = [v for _, v in tracking.history(tracker) if "test/dice" in v]
    assert [v["test/dice"] for v in values] == [0.8, 0.9, 0.8, 0.9]


@pytest.mark.parametrize("uri", ["jsonl:spool", "sqlite:///m.db"])
def test_the_records_of_a_run_are_read_without_a_trace(uri, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track = config.Track(uri=uri)
    work = pathlib.Path("work")
    assert tracking.records(track, work) == [] and not work.exists()
    tracker = tracking.JsonlTracker(
        work / "spool.jsonl", name="work", experiment="seg"
    )
    if uri.startswith("jsonl"):
        tracker = tracking.build(track, work)
    tracker.start(_config(), {})
    tracker.metrics(3, {"train/loss": 0.25, "val/dice": float("nan")})
    work = work.rename("moved")
    before = sorted(pathlib.Path().rglob("*"))
    found = tracking.records(track, work)
    assert [record["kind"] for record in found] == [
        "start", "artifact", "metrics",
    ]  # fmt: skip
    ((step, values),) = tracking.points(found)
    assert step == 3 and values["train/loss"] == 0.25
    assert math.isnan(values["val/dice"])
    assert sorted(pathlib.Path().rglob("*")) == before


def test_what_joins_a_run_leaves_how_it_went_as_it_was(client, monkeypatch):
    first = _track("work", steps=[3], status="KILLED")
    before = client.get_run(first.run_id)
    monkeypatch.setattr(environment, "tags", lambda: {"python": "other"})
    tracker = tracking.build(_config().track, "work")
    tracker.start(_config(), {"test/predict.tta": "8"}, joins=True)
    tracker.metrics(3, {"test/dice": 0.8})
    tracker.finish("FINISHED")
    after = client.get_run(tracker.run_id)
    assert after.info.status == "KILLED"
    assert after.info.end_time == before.info.end_time
    assert after.data.metrics["test/dice"] == 0.8
    assert after.data.tags == before.data.tags | {"test/predict.tta": "8"}


def test_a_resume_with_another_config_says_what_changed(client):
    _track("work", steps=[0])
    changed = config.replace(_config(), {"train.seed": 7})
    tracker = tracking.build(changed.track, "work")
    tracker.start(changed, {})
    tracker.finish("FINISHED")
    run = client.get_run(tracker.run_id)
    assert run.data.tags["config_changed"] == "train.seed: 0 -> 7"
    assert run.data.params["train.seed"] == "0"


def test_a_run_that_is_gone_from_mlflow_is_made_again(client):
    first = _track("work", steps=range(3))
    client.delete_run(first.run_id)
    again = _track("work", steps=range(5))
    assert again.run_id != first.run_id
    assert _steps(client, again.run_id) == list(range(5))
    pathlib.Path("work/run_id").write_text("0123456789abcdef\n")
    assert _track("work").run_id == again.run_id


def test_a_killed_run_leaves_a_spool_that_the_next_start_sends(client):
    code = """
        import os, sys
        from seg import config
        from seg.train import tracking
        tracker = tracking.build(config.Track(uri=sys.argv[1]), "work")
        tracker.start(config.Config(), {})
        for step in range(1000):
            tracker.metrics(step, {"train/loss": step})
        os.kill(os.getpid(), 9)
    """
    uri = "sqlite:///mlflow.db"
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), uri])
    with open("work/spool.jsonl", "a") as file:
        file.write('{"kind": "metrics", "ti')
    tracker = _track("work", steps=range(990, 1010))
    assert _steps(client, tracker.run_id) == list(range(1010))


def test_upload_is_idempotent(client):
    tracker = _track("work", steps=range(5))
    before = client.get_run(tracker.run_id).to_dictionary()
    for _ in range(2):
        pathlib.Path("work/spool.sent").unlink()
        found = tracking.sync("work")
        assert list(found.values()) == [tracker.run_id]
    run = client.get_run(tracker.run_id)
    assert run.to_dictionary() == before
    assert _steps(client, tracker.run_id) == list(range(5))


def test_a_spool_is_uploaded_with_its_artifacts_from_elsewhere(client):
    pathlib.Path("picture.png").write_bytes(b"png")
    settings = _config("jsonl:spool", run_name="a/b: c")
    for steps in (range(3), range(2, 6)):
        tracker = tracking.build(settings.track, "work")
        tracker.start(settings, _TAGS)
        for step in steps:
            tracker.metrics(step, {"train/loss": math.inf, "x?": 1, "x!": 2})
        tracker.artifact("picture.png", "overlays")
        tracker.finish("FINISHED")
    shutil.rmtree("work")
    os.rename("spool", "carried")
    (folder,) = pathlib.Path("carried").iterdir()
    assert folder.name == f"a_b__c-{tracker.run[:8]}"
    assert (folder / "artifacts/overlays/picture.png").is_file()
    found = tracking.sync("carried", "sqlite:///mlflow.db")
    run_id = found[folder]
    assert tracking.sync("carried") == found
    assert _steps(client, run_id) == list(range(6))
    kept = {name for name in client.get_run(run_id).data.metrics if name > "x"}
    assert len(kept) == 2  # two names that are cleaned alike stay apart
    listed = client.list_artifacts(run_id, "overlays")
    assert [file.path for file in listed] == ["overlays/picture.png"]


def test_a_run_told_its_parent_is_nested_whatever_the_environment_says(
    client, monkeypatch
):
    monkeypatch.setenv("SEG_PARENT_RUN", "another")
    parent = _track("parent", "jsonl:spool")
    child = _track("child", "jsonl:spool", steps=(1,), parent=parent.run)
    ids = {path.name: run for path, run in tracking.sync("spool").items()}
    run = client.get_run(ids[f"child-{child.run[:8]}"])
    above = ids[f"parent-{parent.run[:8]}"]
    assert run.data.tags["mlflow.parentRunId"] == above
    assert run.data.params["track.parent"] == parent.run


def test_a_run_that_goes_on_has_no_end_and_what_varies_is_no_param(client):
    settings = _config()
    tracker = tracking.build(settings.track, "work")
    tracker.start(settings, {}, varied=("model.name", "model.width"))
    tracker.finish("")
    run = client.get_run(tracker.run_id)
    assert run.info.status == "RUNNING" and run.info.end_time is None
    flat = config.to_flat(settings)
    assert set(flat) - set(run.data.params) == {"model.name", "model.width"}


@pytest.mark.parametrize("order", [("parent", "child"), ("child", "parent")])
def test_nested_runs_find_their_parent_in_either_order(
    order, client, monkeypatch
):
    parent = _track("parent", "jsonl:parents")
    monkeypatch.setenv("SEG_PARENT_RUN", parent.run)
    _track("child", "jsonl:childs")
    ids = {}
    for which in order:
        ids[which] = next(iter(tracking.sync(f"{which}s").values()))
    tags = client.get_run(ids["child"]).data.tags
    assert tags["mlflow.parentRunId"] == ids["parent"]


def test_a_run_can_be_nested_under_an_mlflow_run(client):
    experiment = client.create_experiment("seg")
    parent = client.create_run(experiment).info.run_id
    tracker = tracking.build(_config().track, "work", parent)
    tracker.start(_config(), {})
    tracker.finish("FINISHED")
    tags = client.get_run(tracker.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent


def test_a_file_that_has_gone_does_not_hold_up_the_rest(client, caplog):
    pathlib.Path("work").mkdir()
    pathlib.Path("work/log.txt").write_text("")
    tracker = tracking.build(_config("jsonl:spool").track, "work")
    tracker.start(_config(), {})
    tracker.artifact("work/log.txt")
    tracker.metrics(1, {"train/loss": 1})
    tracker.finish("FAILED")
    (folder,) = pathlib.Path("spool").iterdir()
    (folder / "artifacts/log.txt").unlink()
    run_id = tracking.sync("spool")[folder]
    assert "log.txt is gone" in caplog.text
    assert client.get_run(run_id).info.status == "FAILED"
    assert _steps(client, run_id) == [1]


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _warnings(caplog):
    return [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_without_a_server_training_goes_on_and_is_uploaded_later(
    client, caplog
):
    uri = f"http://me:secret@127.0.0.1:{_free_port()}"
    before = time.monotonic()
    settings = _config(uri)
    tracker = tracking.build(settings.track, "work")
    tracker.start(settings, _TAGS)
    assert time.monotonic() - before < 10
    for step in range(50):
        before = time.monotonic()
        tracker.metrics(step, {"train/loss": step})
        assert time.monotonic() - before < 1
    before = time.monotonic()
    tracker.finish("FINISHED")
    assert time.monotonic() - before < 10
    (warning,) = _warnings(caplog)
    assert "seg track-sync work" in warning.getMessage()
    assert "secret" not in caplog.text
    assert "secret" not in pathlib.Path("work/spool.jsonl").read_text()
    with pytest.raises(config.UserError, match="fails") as error:
        tracking.sync("work", uri)
    assert "secret" not in str(error.value)
    run_id = tracking.sync("work", "sqlite:///mlflow.db")[pathlib.Path("work")]
    assert _steps(client, run_id) == list(range(50))


@pytest.mark.slow
def test_a_silent_server_costs_ten_seconds_at_the_start(caplog):
    upload.library()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracker = tracking.build(_config(uri).track, "work")
        before = time.monotonic()
        tracker.start(_config(uri), {})
        assert time.monotonic() - before < 10
        tracker.metrics(1, {"train/loss": 1})
        before = time.monotonic()
        tracker.finish("FINISHED")
        assert time.monotonic() - before < 10
    assert len(_warnings(caplog)) == 1


class _Server:
    """A real MLflow server, which can be killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        self.port = _free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.folder}/server.db"),
            *("--artifacts-destination", f"{self.folder}/artifacts"),
        ]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the MLflow server does not answer")

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture
def server(tmp_path):
    made = _Server(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.mark.slow
def test_a_server_that_dies_in_mid_run_loses_nothing(server, caplog):
    caplog.set_level(logging.INFO, background.__name__)
    settings = _config(server.uri)
    tracker = tracking.build(settings.track, "work")
    tracker.start(settings, {})
    for step in range(60):
        if step == 20:
            server.kill()
        before = time.monotonic()
        tracker.metrics(step, {"train/loss": step})
        assert time.monotonic() - before < 1
        if step in (10, 30):
            time.sleep(3)  # an upload in between
        if step == 40:
            server.start()
    pathlib.Path("after.txt").write_text("back")
    tracker.artifact("after.txt", "notes")
    tracker.finish("FINISHED")
    told = ["MLflow is back" in text for text in caplog.messages
            if " fails (" in text or "MLflow is back" in text]  # fmt: skip
    # one line an outage; a busy server may fail once more after it is back
    assert told[:2] == [False, True]
    assert all(one != other for one, other in itertools.pairwise(told))
    client = upload.library().MlflowClient(server.uri)
    # What a busy server did not take before the end is in the spool still.
    (run_id,) = tracking.sync("work", server.uri).values()
    assert _steps(client, run_id) == list(range(60))
    path = client.download_artifacts(run_id, "notes/after.txt")
    assert pathlib.Path(path).read_text() == "back"

    _track("second", server.uri, steps=range(5))
    server.kill()
    again = _track("second", server.uri, steps=range(3, 9))
    assert not again.run_id
    server.start()
    (run_id,) = tracking.sync("second", server.uri).values()
    assert _steps(client, run_id) == list(range(9))


_ONE_OF_MANY = """
    import sys
    from seg import config
    from seg.train import tracking
    name = sys.argv[1]
    settings = config.Config()
    tracker = tracking.build(config.Track(run_name=name), name)
    tracker.start(settings, {})
    for step in range(30):
        tracker.metrics(step, {"train/loss": step})
    tracker.finish("FINISHED")
"""


@pytest.mark.parametrize("n", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_runs_started_at_once_on_a_fresh_database_are_all_complete(
    n, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code = textwrap.dedent(_ONE_OF_MANY)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"run{i}"], stderr=subprocess.PIPE
        )
        for i in range(n)
    ]
    for process in processes:
        _, err = process.communicate(timeout=280)
        assert process.returncode == 0 and not err, err.decode()
    client = upload.library().MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("seg").experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.run_name for run in runs} == {f"run{i}" for i in range(n)}
    for run in runs:
        assert run.info.status == "FINISHED"
        assert _steps(client, run.info.run_id) == list(range(30))
        assert len(run.data.params) == len(config.to_flat(config.Config()))


def test_a_spool_needs_the_standard_library_only():
    code = """
        import sys
        for name in ("mlflow", "numpy", "jax", "orbax", "tensorflow"):
            sys.modules[name] = None
        from seg import config
        from seg.train import tracking
        tracker = tracking.build(config.Track(uri="jsonl:spool"), "work")
        tracker.start(config.Config(), {"a": "b"})
        tracker.metrics(1, {"train/loss": float("nan")})
        tracker.finish("FINISHED")
        try:
            tracking.sync("spool")
        except config.UserError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install -e .[train]" in out.stdout
    (path,) = pathlib.Path("spool").glob("*/spool.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = [record["kind"] for record in records]
    assert kinds == ["start", "artifact", "metrics", "finish"]
    assert records[2]["values"] == {"train/loss": "NaN"}


def test_nothing_is_recorded_by_none():
    tracker = _track("work", "none", steps=range(3))
    tracker.artifact("nowhere")
    tracker.model("nowhere")
    assert list(pathlib.Path().iterdir()) == [] and tracker.run == ""


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("./mlruns", "sqlite:///mlflow.db"),
        ("file:///tmp/mlruns", "file store"),
        ("htp://host", "did you mean http"),
        ("http+x://me:secret@host", None),
        ("ftp://me:secret@host", r"ftp://\*\*\*@host"),
        ("sqlite:////nowhere/mlflow.db", "cannot be written"),
        ("jsonl:", "jsonl:DIR"),
        ("jsonl:file/spool", "cannot be written"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_with_the_remedy(
    uri, text, monkeypatch
):
    pathlib.Path("file").touch()
    if text is None:
        assert tracking.build(_config(uri).track, "work")
        return
    with pytest.raises(config.UserError, match=text) as error:
        tracking.build(_config(uri).track, "work")
    assert "secret" not in str(error.value)
    if not uri.startswith("jsonl:"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(config.UserError, match="MLFLOW_TRACKING_URI"):
            tracking.build(_config().track, "work")


def test_a_folder_without_a_spool_is_refused(tmp_path):
    with pytest.raises(config.UserError, match=r"spool\.jsonl"):
        tracking.sync(tmp_path)


def test_a_line_that_is_not_json_is_named(client):
    _track("work", steps=[1])
    with open("work/spool.jsonl", "a") as file:
        file.write("rot\n")
    with pytest.raises(config.UserError, match="not JSON"):
        tracking.build(_config().track, "work")
    with pytest.raises(config.UserError, match="not JSON"):
        tracking.sync("work")


def test_a_spool_without_a_start_uploads_nothing(client):
    pathlib.Path("work").mkdir()
    pathlib.Path("work/spool.jsonl").touch()
    assert tracking.sync("work") == {pathlib.Path("work"): ""}


def test_a_full_disk_is_told_in_one_line():
    tracker = tracking.build(_config("jsonl:spool").track, "work")
    tracker.start(_config(), {})
    tracker.path.unlink()
    tracker.path.symlink_to("/dev/full")
    with pytest.raises(config.UserError, match="No space left"):
        tracker.metrics(1, {"train/loss": 1})


def test_over_long_values_are_cut_and_the_artifact_has_them_whole(client):
    long = "x" * 9000
    settings = config.replace(_config(), {"data.path": long})
    tracker = tracking.build(settings.track, "work")
    tracker.start(settings, {"t" * 300: long})
    tracker.finish("FINISHED")
    run = client.get_run(tracker.run_id)
    assert run.data.params["data.path"].endswith("x...")
    path = client.download_artifacts(tracker.run_id, "config.json")
    read = config.from_json(pathlib.Path(path).read_text())
    assert read.data.path == long


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("val/dice_nucleus", "val/dice_nucleus"),
        ("val/iou_é+β", "val/iou_é_β"),
        ("a//b/./c", "a/b/c"),
        ("/../x", "x"),
        ("..", "_"),
        ("", "_"),
    ],
)
def test_names_become_what_mlflow_takes(raw, cleaned):
    from mlflow.utils import validation

    assert names.clean(raw) == cleaned
    validation._validate_metric_name(names.clean(raw))
    assert len(names.clean(raw * 300)) <= 250


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://a:b@c/d", "http://***@c/d"),
        ("postgresql+x://u:p@ss@h:1/d", "postgresql+x://***@h:1/d"),
        ("x://h/?api_key=1&b=2;password=3", "x://h/?api_key=***&b=2;password=***"),
        ("http://host/a@b", "http://host/a@b"),
    ],
)  # fmt: skip
def test_secrets_in_uris_are_redacted(text, shown):
    assert tracking.redact(f"see {text} now") == f"see {shown} now"


def test_telemetry_is_off():
    upload.library()
    from mlflow.telemetry import utils

    assert utils.is_telemetry_disabled()
    assert os.environ["DO_NOT_TRACK"] == "true"
