"""A run's folder and its copy in a bucket."""

import signal
import subprocess
import sys
import time

import pytest

from launch.cloud import mirror


def test_a_bucket_follows_the_disk_and_fills_a_new_one(tmp_path):
    disk, bucket = tmp_path / "disk", tmp_path / "bucket"
    (disk / "checkpoints/1").mkdir(parents=True)
    (disk / "checkpoints/2.part").mkdir()
    for name in "log.txt", "checkpoints/1/a", "checkpoints/1/manifest.json":
        (disk / name).write_text(name)
    (disk / "checkpoints/2.part/a").touch()
    (disk / ".hidden").touch()
    copy = mirror.Mirror(disk, bucket)
    copy.push()
    assert set(mirror.scan(bucket)) == set(mirror.scan(disk))
    assert len(mirror.scan(bucket)) == 3
    (bucket / "of another host").touch()
    (disk / "log.txt").write_text("longer than it was")
    (disk / "checkpoints/1/a").unlink()
    copy.push()
    assert (bucket / "log.txt").read_text() == "longer than it was"
    assert not (bucket / "checkpoints/1/a").exists()
    fresh = mirror.Mirror(tmp_path / "new/disk", bucket)
    fresh.disk.mkdir(parents=True)
    (fresh.disk / "of an older run").touch()
    fresh.fetch()
    assert set(mirror.scan(fresh.disk)) == set(mirror.scan(bucket))
    assert "of another host" in mirror.scan(fresh.disk)


def test_the_manifest_is_copied_last_and_removals_come_after(tmp_path):
    disk, seen = tmp_path / "disk", []
    for step in (1, 2):
        (disk / f"{step}/state").mkdir(parents=True)
        (disk / f"{step}/manifest.json").touch()
        (disk / f"{step}/state/z").touch()
    copy = mirror.Mirror(disk, tmp_path / "bucket")
    copied = mirror._copy
    try:
        mirror._copy = lambda old, new: (seen.append(new), copied(old, new))
        copy.push()
    finally:
        mirror._copy = copied
    names = [str(path.relative_to(tmp_path / "bucket")) for path in seen]
    assert names[-2:] == ["1/manifest.json", "2/manifest.json"]


def test_a_signal_reaches_the_command_and_its_status_comes_back(tmp_path):
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        "    pathlib.Path('disk/saved').touch(); sys.exit(33)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path('disk').mkdir(); pathlib.Path('disk/began').touch()\n"
        "time.sleep(60)"
    )
    words = ["disk", "bucket", "--", sys.executable, "-c", code]
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cloud.mirror", *words]
    )
    while not (tmp_path / "disk/began").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 33
    assert sorted(mirror.scan(tmp_path / "bucket")) == ["began", "saved"]


@pytest.fixture
def signals(monkeypatch):
    """Puts the signals' handlers back; nothing waits meanwhile."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("said", "status"), [(0, 1), (33, 33), (2, 2)], ids=str
)
def test_a_bucket_that_refuses_is_an_error_unless_the_training_said_more(
    tmp_path, signals, said, status
):
    (tmp_path / "bucket").write_text("not a folder")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/log.txt").touch()
    copy = mirror.Mirror(tmp_path / "disk", tmp_path / "bucket")
    assert mirror.run(copy, ["bash", "-c", f"exit {said}"], 1.0) == status


@pytest.mark.parametrize(("refusals", "status"), [(2, 0), (99, 1)])
def test_a_bucket_is_asked_again_before_the_training_is_given_up(
    tmp_path, monkeypatch, signals, refusals, status
):
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "log.txt").touch()
    left, scan = iter(range(refusals)), mirror.scan

    def refusing(folder):
        if folder == bucket and next(left, None) is not None:
            raise OSError("not connected")
        return scan(folder)

    monkeypatch.setattr(mirror, "scan", refusing)
    copy = mirror.Mirror(tmp_path / "disk", bucket)
    words = ["test", "-e", str(tmp_path / "disk/log.txt")]
    assert mirror.run(copy, words, 1.0) == status
    assert (tmp_path / "disk").exists() == (status == 0)
