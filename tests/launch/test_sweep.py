"""Claims about sweeps: their plans, who does what, and what is told of it.

Trainings are real in a few tests only; for the others a folder stands as one
would leave it.
"""

import csv
import itertools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from launch.sweep import names, plan, report, results, search, share, work
from seg import config
from seg.evaluate.plots import sweeps
from seg.train import tracking

BASE = config.replace(config.Config(), {"track.uri": "none"})
GRID = {"model.name": ["unet", "fcn8"], "optim.learning_rate": [1e-3, 3e-3]}


def _sweep(folder, swept=GRID, base=BASE, **settings):
    """A sweep that another process might have open, too."""
    opened = share.Sweep(
        plan.make(base, swept, **settings.pop("plan", {})),
        pathlib.Path(folder),
        tiles="pack.npz",
        **settings,
    )
    opened.open({"experiment": "e.py", "sweep": json.loads(json.dumps(swept))})
    return opened


def _finish(job, dice, minutes=2.0, **scores):
    """Leaves a folder as a training does that reached this score."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "asked.json").touch()
    state = work.State({stage: minutes for stage in job.stages})
    if "train" in job.stages:
        work.bundle(job).mkdir()
        metrics = {"val/dice": dice, "train/loss": 1.0}
        meta = {"metrics": metrics, "n_parameters": 1234}
        text = json.dumps({"meta": meta})
        (work.bundle(job) / "model.json").write_text(text)
    for split in {"val", "test"}.intersection(job.stages):
        (job.folder / split).mkdir()
        found = {f"{split}/dice": dice - 0.1 * (split == "test")}
        text = json.dumps({"metrics": found | scores})
        (job.folder / split / "scores.json").write_text(text)
    job.write(state)


def _claims(sweep, n):
    """Names of n jobs claimed one after the other, all held meanwhile."""
    if not n:
        return []
    with sweep.next() as (job, _):
        return [job and job.name, *_claims(sweep, n - 1)]


# ------------------------------------------------------------------- plans


def test_a_grid_is_all_combinations_by_readable_names():
    made = plan.make(BASE, GRID)
    points = {tuple(trial.changes.values()) for trial in made.trials}
    assert points == set(itertools.product(*GRID.values()))
    assert made.trials[1].name == "name=unet,learning_rate=0.003"
    trained = made.config(made.trials[1])
    assert config.diff(BASE, trained) == ["optim.learning_rate: 0.001 -> 0.003"]


def test_a_list_is_exactly_its_trials():
    swept = [
        {"model.name": "unet", "model.width": 32},
        {"model.name": "fcn8", "predict.min_area": [5]},
    ]
    first, second = plan.make(BASE, swept).trials
    assert first.name == "name=unet,width=32"
    assert second.changes == {"model.name": "fcn8", "predict.min_area": (5,)}


def test_values_and_seeds_can_be_added_and_the_names_stay():
    before = plan.make(BASE, {"model.width": [8], "train.epochs": [1]})
    after = plan.make(
        BASE, {"model.width": [8, 16], "train.epochs": [1, 2]}, seeds=(0, 1)
    )
    assert before.trials[0] in [
        plan.Trial(trial.name, before.trials[0].changes)
        for trial in after.trials
    ]
    assert len({trial.name for trial in after.trials}) == 8
    assert len({names.unseeded(t.name) for t in after.trials}) == 4


def test_names_suit_a_file_system_and_tell_trials_apart():
    terms = ["dice + focal", "dice+focal", "0.5*dice", "dice, from 0.5: focal"]
    terms.append("cross_entropy + " * 20 + "dice")
    made = plan.make(BASE, {"loss.terms": terms})
    found = [trial.name for trial in made.trials]
    assert len(set(found)) == len(terms)
    assert all(len(name) <= 100 and "/" not in name for name in found)


def test_the_same_last_part_of_two_knobs_is_written_out():
    labels = names.labels(["model.name", "optim.name", "model.width"])
    assert list(labels.values()) == ["model.name", "optim.name", "width"]


@pytest.mark.parametrize(
    ("swept", "words"),
    [
        ({"model.nam": ["unet"]}, "did you mean model.name"),
        ({"model.width": [8, "9"]}, "'9' is not of type int"),
        ({"model.width": [8, -8]}, "width=-8; it must be positive"),
        ({"model.width": 8}, "give a list of values"),
        ({"model.width": []}, "give a list of values"),
        ({"model.dropout": ("uniform", 0, 1)}, "add 'search'"),
        ({"trials": [3]}, "add 'search'"),
        ({"train.monitor": ["val/iou"]}, "same for all trials"),
        ({"track.uri": ["none"]}, "same for all trials"),
        ([{"model.width": 8}, {"model.width": 8}], "two trials are the same"),
        ([{"model.width": 8}, {}], None),
        (["model.width"], "each trial is a dict"),
        ([{"model.n_classes": 3}], "model.n_classes=3 needs 3"),
        ([], "a dict of lists"),
        ("unet", "a dict of lists"),
        ({"search": "tpee", "model.width": [8]}, "did you mean tpe"),
        ({"search": "tpe"}, "names no knob"),
        ({"search": "tpe", "trials": 0, "model.width": [8]}, "whole number"),
        ({"search": "tpe", "model.dropout": ("lg", 0, 1)}, "did you mean log"),
        ({"search": "tpe", "optim.ema": ("log", 0, 0.5)}, "begins above 0"),
        ({"search": "tpe", "optim.ema": ("uniform", 0.5, 0.5)}, "low, high"),
        ({"search": "tpe", "optim.ema": ("uniform", 0, 1)}, "optim.ema=1.0"),
        ({"search": "tpe", "model.depth": ("uniform", 1, 3)}, "type int"),
        ({"search": "tpe", "model.nam": [8]}, "did you mean model.name"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_door(swept, words):
    if words is None:
        assert plan.make(BASE, swept).trials[1].name == "base"
        return
    with pytest.raises(config.ConfigError, match=r".") as caught:
        plan.make(BASE, swept)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds_are_for_what_has_none():
    with pytest.raises(config.ConfigError, match="leave --seeds out"):
        plan.make(BASE, {"train.seed": [0, 1]}, seeds=(0, 1))
    with pytest.raises(config.ConfigError, match="grids and lists"):
        plan.make(BASE, {"search": "tpe", "model.width": [8]}, seeds=(0, 1))


def test_a_loss_cannot_judge_predictions():
    base = config.replace(BASE, {"train.monitor": "val/loss"})
    with pytest.raises(config.ConfigError, match="does not depend on it"):
        plan.make(base, {"predict.tta": [1, 8]})


# ---------------------------------------------------------------- searches

SPACE = {
    "search": "tpe", "trials": 12, "optim.learning_rate": ("log", 1e-4, 1e-2),
    "model.dropout": ("uniform", 0, 0.5), "model.depth": ("int", 2, 4),
    "predict.min_area": [(3,), (5,)],
}  # fmt: skip


def _score(point):
    return -abs(np.log10(point["optim.learning_rate"]) + 3)


def _searched(swept, n, known=()):
    space = plan.make(BASE, swept).search
    known = list(known)
    while len(known) < n:
        point = search.propose(space, known, lower=False)
        known.append((point, _score(point), True))
    return known


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_search_that_goes_on_proposes_what_it_would_have(method):
    swept = SPACE | {"search": method}
    whole = _searched(swept, 12)
    assert _searched(swept, 12, whole[:5]) == whole
    assert _searched(swept | {"seed": 1}, 1) != whole[:1]
    for point, _, _ in whole:
        config.check(config.replace(BASE, point))
        assert 1e-4 <= point["optim.learning_rate"] <= 1e-2
        assert point["model.depth"] in (2, 3, 4)
        assert point["predict.min_area"] in [(3,), (5,)]


def test_tpe_learns_where_good_scores_are():
    found = [score for _, score, _ in _searched(SPACE, 40)]
    assert statistics.fmean(found[20:]) > statistics.fmean(found[:10])


def test_failed_and_running_trials_count_and_none_comes_twice():
    swept = {"search": "tpe", "model.width": [8, 16], "train.augment": [True]}
    space = plan.make(BASE, swept).search
    known = []
    for score, ended in ((None, True), (float("nan"), False)):
        point = search.propose(space, known, lower=True)
        assert point not in [before for before, _, _ in known]
        known.append((point, score, ended))
    assert search.propose(space, known, lower=True) is None


# ------------------------------------------------------- who does what, once


def test_processes_share_the_trials_without_doing_one_twice(tmp_path):
    one, two = _sweep(tmp_path), _sweep(tmp_path)
    with one.next() as (first, _):
        assert len(set([first.name, *_claims(two, 3)])) == 4
        with two.next() as (job, _):
            assert job.name != first.name
    assert _claims(two, 5)[-1] is None


def test_threads_and_processes_drain_a_sweep_once_each(tmp_path):
    swept = {"model.width": [*range(1, 25)]}
    done = []

    def drain(sweep):
        while True:
            with sweep.next() as (job, _):
                if job is None:
                    return
                _finish(job, 0.5)
                done.append(job.name)

    threads = [
        threading.Thread(target=drain, args=(_sweep(tmp_path, swept),))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == 24


def test_what_another_ended_a_moment_ago_is_not_repeated(tmp_path, monkeypatch):
    sweep, held = _sweep(tmp_path), share.locks.held
    first = sweep.jobs()[0]

    def ended_just_before(path, **how):
        if path == first.lock and not first.is_done():
            _finish(first, 0.5)
        return held(path, **how)

    monkeypatch.setattr(share.locks, "held", ended_just_before)
    assert first.name not in _claims(sweep, 3)


def test_what_is_done_is_not_repeated_and_new_values_are(tmp_path):
    _finish(_sweep(tmp_path).jobs()[0], 0.5)
    more = GRID | {"optim.learning_rate": [1e-3, 3e-3, 1e-2]}
    assert len(set(_claims(_sweep(tmp_path, more), 5))) == 5
    assert _claims(_sweep(tmp_path, more), 6)[-1] is None


def test_an_evaluation_can_be_asked_for_later(tmp_path):
    for job in _sweep(tmp_path).jobs():
        _finish(job, 0.5)
    assert _claims(_sweep(tmp_path), 1) == [None]
    assert None not in _claims(_sweep(tmp_path, evaluate=True), 4)


def test_a_failed_trial_is_tried_once_more_and_on_a_rerun_only(tmp_path):
    swept = {"model.width": [8]}
    running, other = _sweep(tmp_path, swept), _sweep(tmp_path, swept)
    job = running.jobs()[0]
    job.folder.mkdir()
    job.write(work.State(failures=1, why="exit 2: no"))
    assert _claims(running, 1) == _claims(other, 1) == [None]
    rerun = _sweep(tmp_path, swept)
    assert _claims(rerun, 1) == ["width=8"]
    job.write(work.State(failures=2, why="exit 2: no"))
    assert _claims(rerun, 1) == _claims(_sweep(tmp_path, swept), 1) == [None]
    found = results.result(rerun.trials()[0], job)
    assert (found.status, found.why) == ("failed", "exit 2: no")


def test_trials_that_differ_in_prediction_share_one_training(tmp_path):
    swept = {"model.width": [8, 16], "predict.tta": [1, 8]}
    sweep = _sweep(tmp_path, swept)
    jobs = sweep.jobs()
    trainings = [job for job in jobs if not job.training]
    assert [job.name for job in trainings] == [
        "trainings/width=8", "trainings/width=16",
    ]  # fmt: skip
    assert {job.config.predict.tta for job in trainings} == {1}
    assert [job.config.predict.tta for job in jobs if job.training] == [
        1, 8, 1, 8,
    ]  # fmt: skip
    with sweep.next() as (first, _):
        assert first.name == "trainings/width=8"
        _finish(first, 0.5)
        # its two trials can begin, the others wait for the second training
        assert _claims(_sweep(tmp_path, swept), 4) == [
            "width=8,tta=1", "width=8,tta=8", "trainings/width=16", None,
        ]  # fmt: skip
    with sweep.next() as (_, _), sweep.next() as (_, _):
        with sweep.next() as (second, _), sweep.next() as (job, wait):
            assert second.name == "trainings/width=16"
            assert job is None and wait
        second.write(work.State(failures=1, why="x"))
        with sweep.next() as (job, wait):
            assert job is None and not wait
    found = results.result(sweep.trials()[3], sweep.job(sweep.trials()[3]))
    assert (found.status, found.why) == ("failed", "x")


def test_a_workdir_holds_one_sweep(tmp_path):
    _sweep(tmp_path)
    moved = config.replace(BASE, {"data.dir": "x", "track.experiment": "y"})
    _sweep(tmp_path, base=moved)
    other = config.replace(BASE, {"train.epochs": 3})
    with pytest.raises(config.ConfigError, match=r"train.epochs: 10 -> 3"):
        _sweep(tmp_path, base=other)
    with pytest.raises(config.ConfigError, match="which searches"):
        _sweep(tmp_path, SPACE)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").touch()
    with pytest.raises(config.UserError, match="is a run's"):
        _sweep(run)


def test_a_search_grows_by_what_is_known_and_may_be_prolonged(tmp_path):
    sweep = _sweep(tmp_path, SPACE | {"trials": 3})
    for _ in range(3):
        with sweep.next() as (job, _):
            training = job
            _finish(job, 0.5)
        with sweep.next() as (job, _):
            assert job.training.name == training.name
            _finish(job, 0.5)
    assert _claims(sweep, 1) == [None]
    assert [trial.name[:4] for trial in sweep.trials()] == [
        "000,", "001,", "002,",
    ]  # fmt: skip
    again = _sweep(tmp_path, SPACE | {"trials": 4})
    assert again.trials() == sweep.trials()
    assert _claims(again, 1)[0].startswith("trainings/")


# ------------------------------------------------------------ its processes


def test_a_stopped_child_is_asked_to_end_and_none_starts_after(tmp_path):
    children, log = work.Children(), tmp_path / "log"
    code = "import time; print('up', flush=True); time.sleep(60)"
    status = []

    def run():
        status.append(children.run([sys.executable, "-c", code], log, {}))

    thread = threading.Thread(target=run)
    thread.start()
    while not (log.exists() and "up" in log.read_text()):
        time.sleep(0.01)
    children.stop()
    thread.join()
    run()
    assert status == [-signal.SIGTERM, 33]


def test_children_die_with_a_killed_parent(tmp_path):
    code = """
import os, pathlib, sys
from launch.sweep import work
child = "import os, pathlib, time; pathlib.Path('pid').write_text(str(" \\
    "os.getpid())); time.sleep(60)"
work.Children().run([sys.executable, "-c", child], pathlib.Path("log"), {})
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    child = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while pathlib.Path(f"/proc/{child}").exists():
        # a container's first process may leave it a zombie
        stat = pathlib.Path(f"/proc/{child}/stat").read_text()
        if stat.rpartition(")")[2].split()[0] == "Z":
            break
        assert time.monotonic() < end
        time.sleep(0.01)


def test_why_a_process_failed_is_one_line(tmp_path):
    log = tmp_path / "log"
    log.write_text("earlier\nTraceback\nerror: no such file\nbye\n\n")
    assert work._why(2, log, 8) == "exit 2: no such file"
    log.write_text("Traceback\n  x\nValueError: bad\n")
    assert work._why(1, log, 0) == "exit 1: ValueError: bad"
    assert "out of memory" in work._why(-signal.SIGKILL, log, 0)
    assert work._why(0, log, 0) == ""


def test_a_sweep_itself_leaves_the_devices_to_its_trainings():
    code = """
import sys
from launch.sweep import __main__, search
from seg.train.tracking import upload
upload.library(), search.library()
assert not {"jax", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------- what is told


def _dice(sweep, values):
    for job, value in zip(sweep.jobs(), values, strict=False):
        _finish(job, value)
    found = [results.result(t, sweep.job(t)) for t in sweep.trials()]
    return report.rows(found, sweep.plan, pooled=True), found


def test_the_table_has_means_and_spreads_over_seeds_best_first(tmp_path):
    values = [0.5, 0.6, 0.7, 0.9, 0.7]
    swept = {"model.name": ["unet", "fcn8"]}
    sweep = _sweep(tmp_path, swept, plan={"seeds": (0, 1, 2)}, evaluate=True)
    rows, found = _dice(sweep, values)
    assert [row["trial"] for row in rows] == ["name=fcn8", "name=unet"]
    assert rows[1]["val/dice"] == pytest.approx(statistics.fmean(values[:3]))
    assert rows[1]["val/dice_std"] == pytest.approx(
        statistics.stdev(values[:3])
    )
    assert rows[1]["test/dice"] == pytest.approx(0.5)
    assert rows[0]["val/dice"] == pytest.approx(0.8)
    assert rows[0]["seeds"] == 2 and rows[0]["status"] == "done 2, waiting 1"
    text = report.text(rows, sweep.plan)
    assert "| fcn8 |     2 | 0.800 ± 0.141 |" in text
    assert "1,234" in text
    each = report.rows(found, sweep.plan, pooled=False)
    assert [row.get("val/dice") for row in each] == [
        0.9, 0.7, 0.7, 0.6, 0.5, None,
    ]  # fmt: skip


def test_minutes_are_those_of_all_resumptions(tmp_path):
    sweep = _sweep(tmp_path, {"model.width": [1]})
    _finish(sweep.jobs()[0], 0.5, minutes=2.0)
    for step, seconds in ((10, 120.0), (20, 600.0)):
        folder = sweep.jobs()[0].folder / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        text = json.dumps({"body": {"meta": {"seconds": seconds}}})
        (folder / "manifest.json").write_text(text)
    trial = sweep.trials()[0]
    assert results.result(trial, sweep.job(trial)).minutes == 10


def test_an_error_is_best_when_low(tmp_path):
    base = config.replace(
        BASE, {"train.monitor": "val/dice", "train.mode": "min"}
    )
    sweep = _sweep(tmp_path, {"model.width": [1, 2, 3]}, base=base)
    rows, _ = _dice(sweep, [0.5, 0.2, 0.3])
    assert [row["model.width"] for row in rows] == ["2", "3", "1"]
    error = config.replace(BASE, {"train.monitor": "val/count_error"})
    assert plan.lower_is_better(error) and not plan.lower_is_better(BASE)


def test_the_csv_holds_every_metric_and_what_failed(tmp_path):
    sweep = _sweep(tmp_path, evaluate=True)
    _dice(sweep, [0.5, 0.25])
    failed = sweep.jobs()[2]
    failed.folder.mkdir()
    failed.write(work.State(failures=1, why='exit 1: "a, b"'))
    report.make(sweep)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [
        "done", "done", "waiting", "failed",
    ]  # fmt: skip
    assert float(rows[0]["test/dice"]) == 0.4
    assert rows[3]["error"] == 'exit 1: "a, b"'
    assert rows[2]["val/dice"] == ""
    assert (tmp_path / "parallel.png").exists()


def _colours(path):
    with Image.open(path) as picture:
        return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3),
                             axis=0))  # fmt: skip


def test_pictures_take_texts_truths_tuples_and_one_trial(tmp_path):
    trials = [
        {
            "terms": "x" * 60 + end,
            "augment": flag,
            "area": (3, k),
            "rate": 10.0**-k,
        }
        for k, (end, flag) in enumerate(itertools.product("ab", (True, False)))
    ]
    path = tmp_path / "parallel.png"
    sweeps.parallel(path, trials, [0.1, 0.2, 0.2, 0.4], label="val/dice")
    assert _colours(path) > 50
    sweeps.parallel(path, trials[:1], [0.1], label="val/dice")
    runs = {
        f"run {k}": [([1, 2], [0.1 * k, 0.2]), ([1], [float("nan")])]
        for k in range(12)
    }
    sweeps.courses(tmp_path / "curves.png", runs, label="val/dice")
    assert _colours(tmp_path / "curves.png") > 20


def test_numbers_lie_by_their_logarithms_where_those_are_even():
    assert sweeps._is_log(np.array([1e-3, 3e-3, 1e-2]))
    assert sweeps._is_log(np.array([16, 32, 64]))
    assert not sweeps._is_log(np.linspace(0.01, 0.5, 20))
    assert not sweeps._is_log(np.array([2, 3, 4]))


def test_long_texts_that_begin_alike_stay_two_categories():
    axis = sweeps._Axis(["cross_entropy + dice, a", "cross_entropy + dice, b"],
                        [0, 1])  # fmt: skip
    assert len(axis.ticks) == 2 and axis.at[0] != axis.at[1]


def test_the_parents_run_is_one_and_tells_the_best_trial(tmp_path):
    base = config.replace(BASE, {"track.uri": f"jsonl:{tmp_path}/spool"})
    sweep = _sweep(tmp_path / "w", base=base)
    _, found = _dice(sweep, [0.5, 0.75])
    runs = set()
    for _ in range(2):
        parent = report.Parent(sweep, {"sweep": "model.name"})
        parent.begin()
        runs.add(parent.run)
        parent.end(found, [tmp_path / "w/sweep.json"], "KILLED")
    assert len(runs) == 1
    (spool,) = (tmp_path / "spool").iterdir()
    records = [
        json.loads(line)
        for line in (spool / "spool.jsonl").read_text().splitlines()
    ]
    starts = [record for record in records if record["kind"] == "start"]
    assert {record["run"] for record in starts} == runs
    assert starts[-1]["tags"]["sweep.best"] == "name=unet,learning_rate=0.003"
    assert "model.name" not in starts[0]["params"]
    assert starts[0]["params"]["model.in_channels"] == "1"
    ((at, values),) = tracking.jsonl.history(spool / "spool.jsonl")
    assert (at, values["val/dice"]) == (2, 0.75)
    ends = [r["status"] for r in records if r["kind"] == "finish"]
    assert ends == ["KILLED", "KILLED"]


def test_experiments_sweep_what_can_be_swept():
    folder = pathlib.Path(__file__).parents[2] / "experiments"
    from seg import flags

    for path in sorted(folder.glob("*.py")):
        module = flags.experiment_module(path)
        if hasattr(module, "SWEEP"):
            assert plan.make(module.get_config(), module.SWEEP).knobs


# -------------------------------------------------------------- for the user

SWEPT = """
SWEEP = {"model.width": [2, 3]}
"""


@pytest.fixture
def command(prepared, tmp_path, monkeypatch):
    """command(SWEEP, *arguments): a sweep as a process of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(prepared)

    def start(swept, *arguments, name="tiny_sweep.py"):
        file = tmp_path / name
        text = (prepared / "tiny.py").read_text()
        file.write_text(f"{text}\nSWEEP = {swept!r}\n")
        return subprocess.Popen(
            [
                sys.executable, "-m", "launch.sweep", f"--experiment={file}",
                f"--workdir={tmp_path / 'w'}", "--train.epochs=1",
                f"--track.uri=sqlite:///{tmp_path}/mlflow.db", *arguments,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return start


def _runs(tmp_path):
    client = tracking.upload.library().MlflowClient(
        f"sqlite:///{tmp_path}/mlflow.db"
    )
    (experiment,) = [
        e for e in client.search_experiments() if e.name != "Default"
    ]
    return {
        run.info.run_name: run
        for run in client.search_runs([experiment.experiment_id])
    }


def test_a_sweep_from_end_to_end(command, tmp_path):
    swept = [{"model.width": 2}, {"model.width": 3, "data.tile": 48}]
    tiles = "--tiles=tiles.npz"
    child = command(swept, tiles)
    told, _ = child.communicate()
    assert child.returncode == 0, told
    assert "| width |" in told and "| done " in told
    runs = _runs(tmp_path)
    parent = runs.pop("w")
    assert set(runs) == {"width=2", "width=3,tile=48"}
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.params["model.width"] == name[6]
        assert {"val/dice", "train/loss"} <= set(run.data.metrics)
    best = parent.data.tags["sweep.best"]
    assert parent.info.status == "FINISHED" and best in runs
    assert parent.data.metrics["val/dice"] == pytest.approx(
        max(run.data.metrics["val/dice"] for run in runs.values())
    )
    names = {"table.csv", "trials.csv", "parallel.png", "curves.png"}
    assert names <= set(os.listdir(tmp_path / "w"))
    assert names <= set(os.listdir(_folder(parent)))

    again = command(swept, tiles)
    told, _ = again.communicate()
    assert again.returncode == 0 and "begins" not in told
    assert len(_runs(tmp_path)) == 3


def _folder(run):
    return run.info.artifact_uri.removeprefix("file://")


def test_a_trial_that_cannot_begin_ends_the_sweep_before_it_does(
    command, tmp_path
):
    child = command({"model.name": ["unet", "unett"]})
    told, _ = child.communicate()
    assert child.returncode == 2
    assert told.startswith("error: SWEEP: unknown model.name 'unett'; did you")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("swept", "arguments", "words"),
    [
        ({"model.width": [2]}, ["--model.width=3"], "SWEEP varies it"),
        ({"model.width": [2]}, ["--seeds=a"], "whole numbers"),
        ({"model.widht": [2]}, [], "did you mean model.width"),
        (None, [], "has no SWEEP"),
    ],
)
def test_bad_input_is_one_line(launch, tmp_path, swept, arguments, words):
    file = tmp_path / "e.py"
    text = "from seg import config\ndef get_config(): return config.Config()\n"
    file.write_text(text + (f"SWEEP = {swept!r}" if swept else ""))
    code, _, told = launch("sweep.__main__", f"--experiment={file}", *arguments)
    assert code == 2 and words in told and told.count("\n") == 1


def test_a_dry_run_lists_the_trials(launch, tmp_path):
    file = tmp_path / "e.py"
    text = "from seg import config\ndef get_config(): return config.Config()\n"
    file.write_text(f"{text}SWEEP = {GRID!r}")
    code, told, _ = launch(
        "sweep.__main__", f"--experiment={file}", "--dry_run", "--seeds=0,1"
    )
    assert code == 0 and len(told.splitlines()) == 8
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------ long, and real


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_rerun_it_goes_on_where_it_was(command, tmp_path):
    swept, tiles = {"model.width": [2, 3]}, "--tiles=tiles.npz"
    more = "--train.epochs=40"
    child = command(swept, tiles, more)
    first = tmp_path / "w" / "width=2"
    while not list(first.glob("checkpoints/*/manifest.json")):
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    child.kill()
    child.communicate()
    child = command(swept, tiles, more)
    while "resuming at step" not in (first / "log.txt").read_text():
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    time.sleep(1)
    child.send_signal(signal.SIGTERM)
    told, _ = child.communicate()
    assert child.returncode == 33, told
    assert _runs(tmp_path)["w"].info.status == "KILLED"
    child = command(swept, tiles, more)
    told, _ = child.communicate()
    assert child.returncode == 0, told
    runs = _runs(tmp_path)
    assert set(runs) == {"w", "width=2", "width=3"}
    assert all(run.info.status == "FINISHED" for run in runs.values())


@pytest.mark.distributed
@pytest.mark.timeout(900)
def test_two_processes_share_a_sweep_and_its_parent(command, tmp_path):
    swept = {"model.width": [2, 3, 4, 5]}
    both = [command(swept, "--tiles=tiles.npz") for _ in range(2)]
    told = [child.communicate()[0] for child in both]
    assert [child.returncode for child in both] == [0, 0], told
    for width in swept["model.width"]:
        begun = f"width={width}: begins"
        assert sum(text.count(begun) for text in told) == 1
    assert all("begins" in text for text in told)
    runs = _runs(tmp_path)
    assert set(runs) == {"w", *(f"width={k}" for k in swept["model.width"])}
    assert runs["w"].data.tags["sweep.done"] == "4 of 4"
    assert runs["w"].info.status == "FINISHED"
    with (tmp_path / "w/table.csv").open() as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"done"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_settings_of_prediction_are_compared_on_one_training(command, tmp_path):
    swept = {"predict.threshold": [0.3, 0.6]}
    child = command(swept, "--tiles=tiles.npz", "--evaluate")
    told, _ = child.communicate()
    assert child.returncode == 0, told
    runs = _runs(tmp_path)
    assert set(runs) == {
        "w",
        "trainings/base",
        "threshold=0.3",
        "threshold=0.6",
    }
    for threshold in ("0.3", "0.6"):
        run = runs[f"threshold={threshold}"]
        assert run.data.params["predict.threshold"] == threshold
        assert run.data.tags["mlflow.parentRunId"] == runs["w"].info.run_id
        assert {"val/dice", "test/dice"} <= set(run.data.metrics)
        assert "train/loss" not in run.data.metrics
        assert run.info.status == "FINISHED"
    assert "train/loss" in runs["trainings/base"].data.metrics


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_and_a_trial_that_fails(command, tmp_path):
    swept = {
        "search": "tpe", "trials": 3, "optim.learning_rate": ("log", 1e-3, 0.1),
        "predict.tile": [32],
    }  # fmt: skip
    child = command(swept, "--tiles=tiles.npz")
    told, _ = child.communicate()
    assert child.returncode == 0, told
    assert len(_runs(tmp_path)) == 1 + 3 + 3
    gone = tmp_path / "gone"
    gone.mkdir()
    swept = [{"model.width": 2}, {"model.width": 3, "data.cache_mib": 1}]
    child = command(swept, "--tiles=nowhere.npz", f"--workdir={gone}")
    told, _ = child.communicate()
    assert child.returncode == 3 and told.count("failed: exit 2") == 2
