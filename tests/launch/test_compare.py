"""`python -m launch.compare`: runs on one page, and what is said of them."""

import base64
import csv
import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from launch.compare import knobs, page, report, runs, workdir
from seg import config, locks
from seg.evaluate.plots import canvas, sweeps
from seg.train.tracking import upload
from tests.launch import compare_cases


def compared(*folders):
    """(The page, the report) of runs."""
    made = report.make(runs.read_all(folders), pathlib.Path())
    return pathlib.Path("compare.html").read_text(), made


def cells(text):
    """Rows of the first table of a page."""
    table = text.partition("</table>")[0]
    return [
        re.findall("<t[hd]>(.*?)</t[hd]>", line)
        for line in re.findall("<tr>(.*?)</tr>", table)
    ]


def figures(text):
    """[(name of the run, mean grey)] of the overlays on a page, in order."""
    found = re.findall(
        r'<img alt="([^"]*)" src="data:image/jpeg;base64,([^"]*)"', text
    )
    return [
        (name, round(np.asarray(_picture(content)).mean()))
        for name, content in found
    ]


def _picture(content):
    return Image.open(io.BytesIO(base64.b64decode(content)))


def _client(folder):
    uri = f"sqlite:///{folder}/mlflow.db"
    return upload.library().MlflowClient(uri)


def _runs_of(client):
    (experiment,) = [
        e for e in client.search_experiments() if e.name != "Default"
    ]
    return [
        run
        for run in client.search_runs([experiment.experiment_id])
        if run.info.run_name == "compare"
    ]


def test_trained_runs_are_on_one_page_and_the_page_is_in_mlflow(
    launch, prepared, tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told = (
        f"--experiment={prepared / 'tiny.py'}",
        f"--tiles={prepared / 'tiles.npz'}",
        "--workdir=runs/trained",
        f"--track.uri=sqlite:///{tmp_path}/mlflow.db",
        "--train.epochs=1",
    )
    for command in ("train", "evaluate"):
        status, _, err = launch(command, *told)
        assert status == 0, err
    # another one as if it had been trained beside it
    own = pathlib.Path("runs/trained")
    made = config.from_json((own / "config.json").read_text())
    changed = config.to_flat(made) | {"model.width": 7}
    digest = (own / "data_digest").read_text().strip()
    compare_cases.leave(
        pathlib.Path("runs/other"), changed, data=digest, dice=2.0, test=0.25
    )
    status, out, err = launch("compare.__main__", "runs")
    assert status == 0, err
    assert "note:" not in err

    # the table, printed and on the page
    text = pathlib.Path("runs/compare/compare.html").read_text()
    header, *rows = cells(text)
    assert header[:3] == ["name", "width", "val/dice"]
    assert [row[:2] for row in rows] == [["other", "7"], ["trained", "2"]]
    metrics = json.loads((own / "bundle/model.json").read_text())
    metrics = metrics["meta"]["metrics"]
    metrics |= json.loads((own / "test/scores.json").read_text())["metrics"]
    shown = [name for name in header if name in metrics]
    assert len(shown) == 6
    for name in shown:
        assert rows[1][header.index(name)] == f"{metrics[name]:.3f}", name
    assert rows[0][header.index("test/dice")] == "0.250"
    assert 0 <= float(rows[1][header.index("minutes")]) < 5
    for row in rows:
        assert row[-1] == "done"
        (line,) = [x for x in out.splitlines() if x.startswith(f"| {row[0]} ")]
        assert [cell.strip() for cell in line.split("|")[1:-1]] == row

    # curves, and what both made of the two first test images
    assert text.count("data:image/png") == 2
    for metric in ("val_dice", "train_loss"):
        with Image.open(f"runs/compare/curves_{metric}.png") as picture:
            assert min(picture.size) > 300
    assert [name for name, _ in figures(text)] == ["other", "trained"] * 2
    assert "http" not in text and "<script" not in text

    # in MLflow, once for the same runs
    client = _client(tmp_path)
    (run,) = _runs_of(client)
    assert run.info.status == "FINISHED" and run.data.metrics == {}
    assert run.data.tags["compare"] == "other, trained"
    assert run.data.params["train.epochs"] == "1"
    assert "model.width" not in run.data.params
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names >= {"compare.html", "table.csv", "curves_train_loss.png"}
    place = run.info.artifact_uri.removeprefix("file://")
    assert pathlib.Path(place, "compare.html").read_text() == text
    assert launch("compare.__main__", "runs/*")[0] == 0
    assert len(_runs_of(client)) == 1
    assert launch("compare.__main__", "runs/other")[0] == 0
    assert len(_runs_of(client)) == 2


def test_all_that_differs_is_in_the_table_and_what_changes_nothing_is_not():
    where = {"optim.learning_rate": 1e-3, "data.path": "x", "data.dir": "x"}
    a = compare_cases.leave(pathlib.Path("a"), where)
    there = {"optim.learning_rate": 3e-3, "data.path": "y", "train.keep": 7}
    b = compare_cases.leave(pathlib.Path("b"), there)
    text, made = compared(a, b)
    header, *rows = cells(text)
    assert header[:3] == ["name", "learning_rate", "val/dice"]
    assert sorted(row[1] for row in rows) == ["0.001", "0.003"]
    assert made.remarks == [
        "a, b: not scored on the test images; launch.evaluate --workdir=RUN "
        "does it."
    ]
    assert "class=best" in text


def test_settings_of_prediction_are_those_of_the_scores():
    a, b = (compare_cases.leave(pathlib.Path(name)) for name in "ab")
    compare_cases.evaluated(a, 0.5)
    compare_cases.evaluated(b, 0.6, settings={"predict.tta": 8, "model": "x"})
    header, *rows = cells(compared(a, b)[0])
    assert header[1] == "tta"
    assert {row[0]: row[1] for row in rows} == {"a": "1", "b": "8"}


def test_many_knobs_have_a_table_of_their_own_with_a_column_a_run():
    changes = {
        "model.width": 8, "model.depth": 3, "optim.name": "sgd",
        "train.seed": 3, "train.batch_size": 2, "train.epochs": 7,
        "loss.terms": "dice",
    }  # fmt: skip
    a = compare_cases.leave(pathlib.Path("a"), dice=0.5)
    b = compare_cases.leave(pathlib.Path("b"), changes, dice=0.75)
    text, made = compared(a, b)
    assert cells(text)[0][:2] == ["name", "val/dice"]
    _, table, _ = text.split("</table>", 2)
    assert "<th>b</th><th>a</th>" in table
    assert "<td>optim.name</td><td>sgd</td>" in table
    assert re.search(r"\| loss.terms +\| dice ", made.text)
    assert "minimise different losses" in " ".join(made.remarks)


def test_runs_on_different_data_are_not_ranked_nor_shown_beside_each_other():
    folders = []
    for name, data, grey in (("a", "d0", 0), ("b", "d1", 99), ("c", "d0", 200)):
        folder = compare_cases.leave(
            pathlib.Path(name), {"data.path": data, "data.mean": (grey,)},
            data=data, dice=0.5 + grey / 1000,
        )  # fmt: skip
        compare_cases.evaluated(folder, 0.5, grey=grey)
        folders.append(folder)
    text, made = compared(*folders)
    header, first, *_ = cells(text)
    assert header[:4] == ["name", "data", "path", "val/dice"]
    assert first[:3] == ["c", "d0", "d0"]
    (note,) = made.remarks
    assert "not all were trained on the same images" in note.lower()
    assert "c, a (d0); b (d1)" in note and note in text
    assert "class=best" not in text
    assert figures(text) == [
        ("c", 200), ("a", 0), ("c", 200), ("a", 0), ("b", 99), ("b", 99),
    ]  # fmt: skip


def test_of_different_metrics_that_of_most_leads_and_all_are_shown():
    low = {"train.monitor": "val/count_error"}
    a = compare_cases.leave(pathlib.Path("a"), low, dice=0.9)
    b = compare_cases.leave(pathlib.Path("b"), dice=0.3)
    c = compare_cases.leave(pathlib.Path("c"), dice=0.6)
    text, made = compared(a, b, c)
    header, *rows = cells(text)
    assert header[:4] == ["name", "monitor", "val/dice", "val/count_error"]
    assert [row[0] for row in rows] == ["a", "c", "b"]
    assert rows[1][3] == ""
    assert (
        "val/count_error (a); val/dice (c, b). The table goes by val/dice."
        in made.remarks[0]
    )
    assert pathlib.Path("curves_val_count_error.png").exists()
    d = compare_cases.leave(pathlib.Path("d"), low, dice=0.1)
    e = compare_cases.leave(pathlib.Path("e"), low, dice=0.2)
    _, *rows = cells(compared(a, d, e)[0])
    assert [row[0] for row in rows] == ["d", "e", "a"]


def _tree(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_runs_that_are_not_done_are_shown_as_they_are_and_left_alone():
    root = pathlib.Path("runs")
    done = compare_cases.leave(root / "done", dice=0.5, test=0.4)
    killed = compare_cases.leave(root / "killed", dice=0.6, status="KILLED")
    failed = compare_cases.leave(root / "failed", dice=None, status="FAILED")
    going = compare_cases.leave(root / "going", dice=0.7, status="")
    with locks.held(going / "lock"):
        before = _tree(root)
        text, made = compared(done, killed, failed, going)
        assert _tree(root) == before
    header, *rows = cells(text)
    assert [(row[0], row[-1]) for row in rows] == [
        ("going", "running"), ("killed", "stopped"), ("done", "done"),
        ("failed", "failed"),
    ]  # fmt: skip
    at = header.index("test/dice")
    assert [row[at] for row in rows] == ["", "", "0.400", ""]
    assert rows[-1][header.index("val/dice")] == ""
    told = "\n".join(made.remarks)
    assert "going: at step 20, still training" in told
    assert "killed: at step 20, stopped before its end" in told
    assert "failed: at step 20, failed" in told
    assert "failed: no model yet, so no scores." in told
    assert "going, killed: not scored on the test images" in told
    assert figures(text) == [("done", 0)] * 2


def test_scores_of_an_earlier_model_are_left_out():
    a = compare_cases.leave(pathlib.Path("a"), dice=0.5, test=0.25)
    assert runs.read_all([a])[0].score("test/dice") == 0.25
    compare_cases.model(a, 30, {"val/dice": 0.9})
    (run,) = runs.read_all([a])
    assert run.score("test/dice") is None and run.outdated == ("test",)
    text, made = compared(a)
    assert "a: scored before the model" in made.remarks[0]
    assert figures(text) == []


def test_a_run_without_a_record_has_no_curves():
    a, b = (compare_cases.leave(pathlib.Path(name)) for name in "ab")
    (b / "spool.jsonl").unlink()
    text, made = compared(a, b)
    assert "b: no record of the steps" in made.remarks[-1]
    assert text.count("data:image/png") == 2
    (a / "spool.jsonl").unlink()
    assert compared(a, b)[0].count("data:image/png") == 0


def test_the_csv_tells_all_metrics_and_where_the_runs_are(tmp_path):
    a = compare_cases.leave(tmp_path / "deep/a", {"model.width": 3}, test=0.5)
    b = compare_cases.leave(tmp_path / "b", dice=None)
    compared(a, b)
    with open("table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == [str(a), str(b)]
    assert rows[0]["model.width"] == "3" and rows[0]["test/dice"] == "0.5"
    assert rows[1]["test/dice"] == "" and rows[1]["minutes"] != ""


def test_a_folder_of_runs_a_pattern_and_the_runs_are_the_same_runs():
    root = pathlib.Path("all")
    made = [compare_cases.leave(root / name) for name in ("a", "b")]
    (root / "artifacts").mkdir()  # a sweep's tracker
    (root / "artifacts/config.json").write_text("{}")
    (root / "compare").mkdir()
    (root / "compare/compare.html").write_text("")
    (root / "notes.txt").write_text("")
    assert runs.find(["all"]) == made
    assert runs.find(["all/*"]) == made
    assert runs.find(["all/a", "all/compare", "all/b", "all/../all/a"]) == made
    odd = compare_cases.leave(root / "a[1]")
    assert runs.find(["all/a[1]"]) == [odd]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [tmp_path / "x/unet", tmp_path / "y/unet", tmp_path / "z"]
    for folder in folders:
        compare_cases.leave(folder)
    assert [run.name for run in runs.read_all(folders)] == [
        "x/unet", "y/unet", "z",
    ]  # fmt: skip
    assert [run.name for run in runs.read_all(folders[1:])] == ["unet", "z"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "which runs?"),
        (["gone"], "gone: no such folder"),
        (["file"], "file: no folder"),
        (["empty"], "empty is no run, and holds none"),
        (["a", "empty"], "empty is no run, and holds none"),
        (["none*"], "none*: no run matches it"),
        (["a", "--out=a"], "--out=a is of a training or a sweep"),
        (["a", "--out=file/x"], "--out=file/x: cannot be written"),
        (["a", "--out="], "give --out=DIR"),
        (["old"], "old/config.json: unknown knob 'model.colour'"),
        (["a", "--track.uri=mlruns"], "file store"),
        (["a", "--model.width=3"], "unknown flag"),
    ],
)
def test_what_cannot_be_compared_is_one_line(launch, words, told):
    compare_cases.leave(pathlib.Path("a"))
    pathlib.Path("empty").mkdir()
    pathlib.Path("file").touch()
    old = compare_cases.leave(pathlib.Path("old"))
    (old / "config.json").write_text('{"model": {"colour": 1}}')
    status, _, err = launch("compare.__main__", *words)
    assert status == 2
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert told in err


def test_minutes_are_those_of_the_training_where_its_checkpoints_are_gone(
    tmp_path,
):
    records = []
    for kind, at, *joins in (
        ("start", 0), ("metrics", 60), ("finish", 70),  # 60 s
        ("start", 1000), ("metrics", 1010), ("metrics", 1030),  # killed: 30 s
        ("start", 5000), ("metrics", 5030), ("finish", 5031),  # 30 s
        ("start", 9000, True), ("metrics", 9500),  # an evaluation
    ):  # fmt: skip
        records.append({"kind": kind, "time": 1000 * at, "joins": bool(joins)})
    assert workdir.seconds(tmp_path, records) == 120
    assert workdir.seconds(tmp_path, records[:5]) == 70
    assert workdir.seconds(tmp_path) == 0
    manifest = tmp_path / "checkpoints/9/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"body": {"meta": {"seconds": 90.5}}}')
    assert workdir.seconds(tmp_path, records) == 90.5


def test_a_folder_scored_with_anothers_model_takes_its_course_from_there():
    trained = compare_cases.leave(pathlib.Path("trained"), dice=0.5, data="d7")
    scored = pathlib.Path("scored")
    scored.mkdir()
    for name in ("config.json", "done"):
        (scored / name).write_bytes((trained / name).read_bytes())
    (scored / "bundle").symlink_to("../trained/bundle")
    compare_cases.evaluated(scored, 0.25, "val")
    (run,) = runs.read_all([scored])
    assert run.metrics == {"val/dice": 0.25}
    assert run.course("val/dice") == ([10, 20], [0.25, 0.5])
    assert (run.data, run.n_parameters, run.status) == ("d7", 1234, "done")


def test_pictures_are_those_of_the_split_that_most_have(tmp_path):
    folders = {name: tmp_path / name for name in "abc"}
    for folder in folders.values():
        compare_cases.leave(folder)
    for name, split in (("a", "test"), ("a", "val"), ("b", "val")):
        compare_cases.evaluated(folders[name], 0.5, split)
    split, shown = workdir.overlays(folders)
    assert split == "val" and set(shown) == {"a", "b"}
    assert [path.name for path in shown["b"]] == ["first_1.png", "first_2.png"]
    compare_cases.evaluated(folders["b"], 0.5, "test")
    assert workdir.overlays(folders)[0] == "test"


def test_a_run_has_one_colour_in_all_curves():
    line = [([1, 2], [0.1, 0.2])]
    sweeps.courses(
        "curves.png", {"b": line}, label="val/dice", order=["a", "b"]
    )
    with Image.open("curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    seen = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0)}
    assert canvas.colour(1) in seen and canvas.colour(0) not in seen


def test_the_page_holds_everything_and_escapes_names(tmp_path):
    draw = np.random.default_rng(0)
    overlays = {}
    for name in ("a < b", "c", "d"):
        folder = tmp_path / name.replace(" < ", "")
        folder.mkdir()
        for k in (1, 2, 3)[: 2 if name == "d" else 3]:
            pixels = draw.integers(0, 255, (1100, 60, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"first_{k}.png")
        overlays[name] = sorted(folder.glob("*.png"))
    curve = tmp_path / "curves.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(curve)
    path = tmp_path / "compare.html"
    rows = [["a < b", "0.9"], ["c", "0.8"]]
    parts = [
        page.table(["name", "dice"], rows),
        page.notes(["x < y"]),
        page.pictures("curves", [curve]),
        page.side_by_side("The same images", overlays),
    ]
    page.make(path, "1 < 2", parts)
    text = path.read_text()
    for raw in ("a < b", "x < y", "1 < 2"):
        assert raw not in text and raw.replace("<", "&lt;") in text
    # the images that all three have, and the curve
    assert text.count("<figure>") == 6 + 1
    assert "http" not in text and "<script" not in text
    assert text.count("data:image/png") == 1
    shown = text.split("data:image/jpeg;base64,")[1].split('"')[0]
    assert max(_picture(shown).size) == 1000
    many = {str(i): overlays["c"] for i in range(8)}
    assert "The images; 6 of 8" in page.side_by_side("The images", many)
    nothing = page.notes([]), page.pictures("x", []), page.side_by_side("y", {})
    assert nothing == ("", "", "")


def test_knobs_that_a_training_measured_or_that_change_nothing_are_dull():
    found = ["data.path", "data.mean", "track.uri", "train.seed"]
    assert knobs.telling(found, same_data=True) == ["data.mean", "train.seed"]
    assert knobs.telling(found, same_data=False) == ["data.path", "train.seed"]
