"""`python -m launch.prepare`: what it says, and its exit status."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from seg.data import records

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENT = """
from seg import config

def get_config():
    return config.replace(config.Config(), {
        "synthetic.n_train": 3, "synthetic.n_val": 1, "synthetic.n_test": 1,
        "synthetic.height": 32, "synthetic.width": 40,
        "synthetic.diameter": 10, "synthetic.n_objects": 5,
    })
"""


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.prepare", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "drawn.py").write_text(EXPERIMENT)
    return tmp_path


def test_prepares_packs_and_is_then_a_no_op(folder):
    arguments = ["--experiment=drawn.py", "--data.dir=here", "--pack=p.npz"]
    first = command(folder, *arguments)
    assert first.returncode == 0, first.stderr
    assert "train: 3 images" in first.stdout
    assert "prepared in here/synthetic/" in first.stderr
    packed = records.open_pack(folder / "p.npz")
    assert [packed.n(s) for s in records.SPLITS] == [3, 1, 0]
    assert packed.get("val", 0)["image"].shape == (32, 40, 1)
    again = command(folder, *arguments[:2])
    assert again.returncode == 0
    assert "already prepared in here/synthetic/" in again.stderr


def test_verify_only_prepares_nothing(folder):
    result = command(folder, "--experiment=drawn.py", "--verify_only")
    assert result.returncode == 0 and "no defects" in result.stdout
    assert not (folder / "data").exists()


def test_every_defect_is_listed_and_the_status_is_2(folder):
    for name in ("images", "masks"):
        (folder / "raw" / name).mkdir(parents=True)
        for i in range(4):
            path = folder / "raw" / name / f"im{i}.png"
            Image.fromarray(np.eye(9, dtype=np.uint8)).save(path)
    (folder / "raw" / "masks" / "im1.png").unlink()
    (folder / "raw" / "images" / "im2.png").write_bytes(b"no image")
    for extra in (["--verify_only"], []):
        result = command(
            folder, "--data.layout=folders", "--data.path=raw", *extra
        )
        assert result.returncode == 2
        lines = result.stderr.splitlines()
        lines = [line for line in lines if not re.match(r"\w+ \d of", line)]
        assert len(lines) == 3 and lines[-1].startswith("error: 2 defects")
        assert any("im1" in line for line in lines[:2])
        assert any("im2" in line for line in lines[:2])
    assert not list((folder / "data").rglob("split.json"))


def test_a_full_disk_is_one_line_and_leaves_nothing(folder):
    module = "-m launch.prepare --experiment=drawn.py --synthetic.n_train=200"
    result = subprocess.run(
        f"ulimit -f 100; exec {sys.executable} {module}",
        shell=True,
        executable="/bin/bash",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    last = result.stderr.splitlines()[-1]
    assert "cannot write data/synthetic/" in last and "too large" in last
    names = os.listdir(folder / "data" / "synthetic")
    assert names == [".lock"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment=absent.py"], "absent.py: no such file"),
        (["--data.lay=folders"], "data.layout"),
        (["--data.layout=folders", "--data.path=gone"], "gone"),
        (["stray"], "'stray' is no flag"),
        (["--pack_splits=trian"], "did you mean train"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_2(
    folder, launch, monkeypatch, arguments, message
):
    monkeypatch.chdir(folder)
    status, out, err = launch("prepare", *arguments)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1 and not out


def test_a_password_of_mlflow_is_in_nothing_that_is_prepared(folder):
    arguments = ["--experiment=drawn.py", "--pack=p.npz"]
    secret = "--track.uri=https://me:hunter2@host"
    result = command(folder, *arguments, secret)
    assert result.returncode == 0, result.stderr
    assert records.open_pack(folder / "p.npz").config.track.uri == ""
    with np.load(folder / "p.npz") as pack:
        assert b"hunter2" not in pack["about"].tobytes()
    for path in (folder / "data").rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path
