"""Who does which trial of a sweep, once, and in which processes."""

import contextlib
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from launch.sweep import report, results, share, work
from seg import config, locks
from seg.data import layouts, places, records
from tests.launch import sweep_cases


def test_processes_share_the_trials_without_doing_one_twice(tmp_path):
    one, two = sweep_cases.opened(tmp_path), sweep_cases.opened(tmp_path)
    with one.next() as (first, _):
        assert len(set([first.name, *sweep_cases.claims(two, 3)])) == 4
        with two.next() as (job, _):
            assert job.name != first.name
    assert sweep_cases.claims(two, 5)[-1] is None


def test_threads_and_processes_drain_a_sweep_once_each(tmp_path):
    swept = {"model.width": [*range(1, 25)]}
    done = []

    def drain(sweep):
        while True:
            with sweep.next() as (job, _):
                if job is None:
                    return
                sweep_cases.finish(job, 0.5)
                done.append(job.name)

    threads = [
        threading.Thread(
            target=drain, args=(sweep_cases.opened(tmp_path, swept),)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == 24


def test_what_another_ended_a_moment_ago_is_not_repeated(tmp_path, monkeypatch):
    sweep, held = sweep_cases.opened(tmp_path), share.locks.held
    first = sweep.jobs()[0]

    def ended_just_before(path, **how):
        if path == first.lock and not first.is_done():
            sweep_cases.finish(first, 0.5)
        return held(path, **how)

    monkeypatch.setattr(share.locks, "held", ended_just_before)
    assert first.name not in sweep_cases.claims(sweep, 3)


def test_what_is_done_is_not_repeated_and_new_values_are(tmp_path):
    sweep_cases.finish(sweep_cases.opened(tmp_path).jobs()[0], 0.5)
    more = sweep_cases.GRID | {"optim.learning_rate": [1e-3, 3e-3, 1e-2]}
    assert (
        len(set(sweep_cases.claims(sweep_cases.opened(tmp_path, more), 5))) == 5
    )
    assert sweep_cases.claims(sweep_cases.opened(tmp_path, more), 6)[-1] is None


def test_an_evaluation_can_be_asked_for_later(tmp_path):
    for job in sweep_cases.opened(tmp_path).jobs():
        sweep_cases.finish(job, 0.5)
    assert sweep_cases.claims(sweep_cases.opened(tmp_path), 1) == [None]
    assert None not in sweep_cases.claims(
        sweep_cases.opened(tmp_path, evaluate=True), 4
    )


def test_a_failed_trial_is_tried_once_more_and_on_a_rerun_only(tmp_path):
    swept = {"model.width": [8]}
    running, other = (
        sweep_cases.opened(tmp_path, swept),
        sweep_cases.opened(tmp_path, swept),
    )
    job = running.jobs()[0]
    job.folder.mkdir()
    job.write(work.State(failures=1, why="exit 2: no"))
    assert (
        sweep_cases.claims(running, 1) == sweep_cases.claims(other, 1) == [None]
    )
    rerun = sweep_cases.opened(tmp_path, swept)
    assert sweep_cases.claims(rerun, 1) == ["width=8"]
    job.write(work.State(failures=2, why="exit 2: no"))
    assert (
        sweep_cases.claims(rerun, 1)
        == sweep_cases.claims(sweep_cases.opened(tmp_path, swept), 1)
        == [None]
    )
    found = results.result(rerun.trials()[0], job)
    assert (found.status, found.why) == ("failed", "exit 2: no")


def test_trials_that_differ_in_prediction_share_one_training(tmp_path):
    swept = {"model.width": [8, 16], "predict.tta": [1, 8]}
    sweep = sweep_cases.opened(tmp_path, swept)
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
        sweep_cases.finish(first, 0.5)
        # its two trials can begin, the others wait for the second training
        assert sweep_cases.claims(sweep_cases.opened(tmp_path, swept), 4) == [
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


def test_a_model_is_adopted_again_where_its_link_is_lost(tmp_path):
    sweep = sweep_cases.opened(tmp_path, {"predict.tta": [1, 8]})
    training, first, _ = sweep.jobs()
    sweep_cases.finish(training, 0.5)
    sweep_cases.finish(first, 0.5)
    assert sweep_cases.claims(sweep, 1) == ["tta=8"]
    work.bundle(first).unlink()  # as a copy of the files leaves it
    assert sweep_cases.claims(sweep, 1) == ["tta=1"]
    assert work.run(first, work.Children(), {}) == "done"  # and no stage again
    found = results.result(sweep.trials()[0], first)
    assert (found.status, found.n_parameters) == ("done", 1234)


def test_a_workdir_holds_one_sweep(tmp_path):
    sweep_cases.opened(tmp_path)
    moved = config.replace(
        sweep_cases.BASE, {"data.dir": "x", "track.experiment": "y"}
    )
    sweep_cases.opened(tmp_path, base=moved)
    other = config.replace(sweep_cases.BASE, {"train.epochs": 3})
    with pytest.raises(config.ConfigError, match=r"train.epochs: 10 -> 3"):
        sweep_cases.opened(tmp_path, base=other)
    with pytest.raises(config.ConfigError, match="which searches"):
        sweep_cases.opened(tmp_path, sweep_cases.SPACE)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").touch()
    with pytest.raises(config.UserError, match="is a run's"):
        sweep_cases.opened(run)


def test_a_folder_begun_for_another_trial_is_refused(tmp_path):
    # both have the name that they would have alone
    one, two = ({"loss.terms": [t]} for t in ("dice + focal", "dice+focal"))
    sweep, other = (sweep_cases.opened(tmp_path, s) for s in (one, two))
    sweep_cases.finish(sweep.jobs()[0], 0.5)
    for look in (
        lambda: sweep_cases.opened(tmp_path, two),
        lambda: report.make(other),
    ):
        with pytest.raises(config.ConfigError, match=r"loss.terms: 'dice \+"):
            look()
    sweep.jobs()[0].write(work.State())
    with pytest.raises(config.ConfigError, match="remove it, or use"):
        sweep_cases.claims(other, 1)
    assert sweep_cases.claims(sweep_cases.opened(tmp_path, one), 1) != [None]


@pytest.mark.parametrize("packed", [True, False])
def test_a_trial_that_was_trained_with_other_data_is_refused(tmp_path, packed):
    def images(shade):
        for kind, value in ("images", shade), ("masks", 255):
            (tmp_path / "raw" / kind).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.full((8, 8), value, np.uint8))
            picture.save(tmp_path / "raw" / kind / "a.png")

    def pack(digest):
        found = records.Records({}, digest, None, 1, sweep_cases.BASE)
        records.pack(found, sweep_cases.BASE, tmp_path / "pack.npz")
        return digest

    raw = {"data.layout": "folders", "data.path": str(tmp_path / "raw")}
    base = config.replace(sweep_cases.BASE, raw)
    settings = {"base": base, "tiles": str(tmp_path / "pack.npz") * packed}
    images(1)
    now = pack("one")
    if not packed:
        now = places.folder(base, layouts.source_digest(base)).name
    sweep = sweep_cases.opened(tmp_path / "w", **settings)
    sweep_cases.finish(sweep.jobs()[0], 0.5)
    (sweep.jobs()[0].folder / "data_digest").write_text(f"{now}\n")
    sweep_cases.opened(tmp_path / "w", **settings)
    images(2)
    pack("two")
    with pytest.raises(config.ConfigError, match="trained with other data"):
        sweep_cases.opened(tmp_path / "w", **settings)
    (tmp_path / "pack.npz").unlink()
    shutil.rmtree(tmp_path / "raw")
    sweep_cases.opened(tmp_path / "w", **settings)


def test_a_search_grows_by_what_is_known_and_may_be_prolonged(tmp_path):
    sweep = sweep_cases.opened(tmp_path, sweep_cases.SPACE | {"trials": 3})
    for _ in range(3):
        with sweep.next() as (job, _):
            training = job
            sweep_cases.finish(job, 0.5)
        with sweep.next() as (job, _):
            assert job.training.name == training.name
            sweep_cases.finish(job, 0.5)
    assert sweep_cases.claims(sweep, 1) == [None]
    assert [trial.name[:4] for trial in sweep.trials()] == [
        "000,", "001,", "002,",
    ]  # fmt: skip
    again = sweep_cases.opened(tmp_path, sweep_cases.SPACE | {"trials": 4})
    assert again.trials() == sweep.trials()
    assert sweep_cases.claims(again, 1)[0].startswith("trainings/")


def test_a_search_grows_while_another_process_trains(tmp_path):
    sweep = sweep_cases.opened(tmp_path, sweep_cases.SPACE)
    with sweep.next() as (first, _), sweep.next() as (second, _):
        names = [first.name, second.name]
        assert all(name.startswith("trainings/") for name in names)
        assert len({*names}) == 2 and len(sweep.trials()) == 2


def test_a_search_has_no_more_trials_than_can_be_done_at_once(tmp_path):
    swept = {"search": "tpe", "trials": 9,
             "predict.threshold": ("uniform", 0.2, 0.8)}  # fmt: skip
    sweep = sweep_cases.opened(tmp_path, swept)
    with sweep.next() as (training, _), sweep.next() as (job, wait):
        assert training.name.startswith("training") and not job and wait
        assert sweep_cases.claims(sweep, 1) == [None]
        assert len(sweep.trials()) == 2  # one for each that asks
        sweep_cases.finish(training, 0.5)
        with sweep.next() as (one, _), sweep.next() as (two, _):
            assert one.training.name == two.training.name == training.name
            assert one.name != two.name


# ------------------------------------------------------------ its processes


# the launcher itself never imports JAX, which says so; these tests' process did
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
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


def test_what_outlived_a_killed_sweep_is_waited_for(tmp_path, monkeypatch):
    ran, pause = [], time.sleep
    (job, *_) = sweep_cases.opened(tmp_path).jobs()
    job.folder.mkdir(parents=True)
    orphan = contextlib.ExitStack()
    orphan.enter_context(locks.held(job.folder / "lock"))

    def waited(seconds):
        assert not ran
        orphan.close()
        pause(0)

    def run(children, argv, output, env):
        with locks.held(job.folder / "lock", wait=False):
            ran.append(argv)
        return 2  # one stage is enough

    monkeypatch.setattr(work.time, "sleep", waited)
    monkeypatch.setattr(work.Children, "run", run)
    (job.folder / "output.txt").touch()
    work.run(job, work.Children(), {})
    assert len(ran) == 1


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
