"""`python -m launch.cloud`: what it refuses, and what it asks SkyPilot for.

Nothing is rented here: SkyPilot reads the tasks offline.
"""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from launch.cloud import plan, skypilot, targets
from seg import config
from tests.launch import cloud_cases

GIVEN = (
    "--experiment=" + str(cloud_cases.ROOT / "experiments/demo.py"),
    "--checkpoint_bucket=gs://kept-here",
    "--tracking_uri=http://mlflow.example.org:5000",
    "--dry_run",
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target=tpu-v5e-9"], "unknown --target 'tpu-v5e-9'; did you mean"),
        (["--target=gpu-1", "--accelerator=H10"], "did you mean H100"),
        (["--target=gpu-1", "--modle.width=8"], "did you mean model.width"),
        (["--target=gpu-1", "--model.name=unett"], "did you mean unet"),
        (["--target=gpu-1", "--loss.terms=dise"], "dise"),
        (["--target=gpu-1", "--data.tile=100"], "choose 96 or 104"),
        (["--target=gpu-1", "--train.monitor=val/dise"], "mean val/dice"),
        (["--target=gpu-8", "--train.batch_size=12"], "a multiple, as 16"),
        (["--target=gpu-8", "--nodes=2"], "the 16 devices"),
        (["--target=tpu-v5e-16", "--nodes=2"], "choose a larger target"),
        (["--target=gpu-1", "--data.layout=stardist"], "--data.path="),
        (
            ["--target=gpu-1", "--data.layout=stardist", "--data.path=../a"],
            "lies on this machine",
        ),
        (
            ["--target=gpu-1", "--data.layout=stardist", "--data.path=a.zip"],
            "--data_bucket=: a bucket is needed",
        ),
        (["--target=gpu-1", "--model.encoder=/home/me/w.h5"], "on this mach"),
        (["--target=gpu-1", "--checkpoint_bucket=here"], "as gs://NAME"),
        (["--target=gpu-1", "--workdir=runs/demo"], "it is a name"),
        (["--target=gpu-1", "--tracking_uri="], "where is the MLflow server"),
        (["--target=gpu-1", "--tracking_uri=http://a:b@c"], "a password"),
        (["--target=gpu-1", "--track.uri=sqlite:///a.db"], "not reached"),
        (["--target=gpu-1", "--trials=3"], "add --sweep"),
        (["--target=gpu-1", "--sweep"], "SWEEP"),
        (["--target=gpu-1", "--experiment=/tmp"], "no such file"),
        ([], "give --experiment=FILE and --target=gpu-1|"),
    ],
)
def test_what_cannot_run_there_is_refused_here(launch, words, message):
    status, out, err = launch("cloud.__main__", *GIVEN, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_as_many_cycles_as_the_steps_allow_are_planned(launch):
    words = ["--target=gpu-1", "--optim.cycles=19"]
    status, _, err = launch("cloud.__main__", *GIVEN, *words)
    assert (status, err) == (0, "")


def test_every_trial_of_a_sweep_is_tried_before_a_host_is_rented(
    launch, tmp_path
):
    file = tmp_path / "e.py"
    file.write_text(
        "from seg import config\ndef get_config(): return config.Config()\n"
        "SWEEP = {'loss.terms': ['dice', 'dise']}\n"
    )
    words = ["--target=gpu-1", "--sweep", f"--experiment={file}"]
    status, _, err = launch("cloud.__main__", *GIVEN, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert "did you mean dice" in err


def test_another_function_of_an_experiment_is_called_by_the_hosts():
    file = str(cloud_cases.ROOT / "experiments/demo.py")
    for tail, told in (
        ("", ""),
        (":get_config", ":get_config"),
        (":small", ":small"),
    ):
        task = plan.make("gpu-1", cloud_cases.order(experiment=file + tail))
        (word,) = shlex.split(task["envs"]["ARGS"])
        assert word == f"--experiment=experiments/demo.py{told}"
    with pytest.raises(config.ConfigError, match="lies outside"):
        plan.make("gpu-1", cloud_cases.order(experiment="/x/a.py:small.b"))


def test_an_experiment_that_the_hosts_do_not_get_is_refused(tmp_path):
    outside = tmp_path / "mine.py"
    outside.touch()
    for path in outside, cloud_cases.ROOT / "runs/demo/config.json":
        with pytest.raises(config.ConfigError, match="copy it to experiments"):
            plan.make("gpu-1", cloud_cases.order(experiment=str(path)))


def test_an_accelerator_in_a_file_that_is_not_on_the_list_is_refused(
    monkeypatch, tmp_path
):
    text = (cloud_cases.CLOUD / "gpu-1.yaml").read_text()
    (tmp_path / "gpu-1.yaml").write_text(text.replace("L4: 1", "L44: 1"))
    monkeypatch.setattr(targets, "FOLDER", tmp_path)
    with pytest.raises(config.ConfigError, match="accelerator 'L44'"):
        plan.make("gpu-1", cloud_cases.order())


def test_files_are_where_the_bucket_is_mounted():
    asked = {"data.layout": "stardist", "data.path": "sets/a.zip"}
    task = plan.make(
        "gpu-8",
        cloud_cases.order(
            config=asked | {"train.batch_size": 32, "model.encoder": "x.h5"},
            knobs={"data.path": "sets/a.zip", "data.layout": "stardist"},
            data_bucket="s3://images/",
            accelerator="H100",
            nodes=2,
            spot=False,
        ),
    )
    assert shlex.split(task["envs"]["ARGS"])[1:] == [
        "--data.layout=stardist",
        "--data.path=/data/sets/a.zip",
        "--model.encoder=/data/x.h5",
    ]
    assert task["envs"]["DATA_BUCKET"] == "s3://images"
    assert task["resources"]["accelerators"] == {"H100": 8}
    assert task["resources"]["use_spot"] is False
    assert (task["num_nodes"], task["envs"]["DISTRIBUTED"]) == (2, "true")
    assert "/data" not in plan.make("gpu-1", cloud_cases.order())["file_mounts"]


@pytest.mark.parametrize(
    "path, placed",
    [
        ("seg/zoo/nuclei", "seg/zoo/nuclei"),  # of the checkout
        ("runs/mine/bundle", "/data/runs/mine/bundle"),
        ("/data/models/mine", "/data/models/mine"),
    ],
)
def test_a_model_to_start_from_is_of_the_checkout_or_the_bucket(path, placed):
    order = cloud_cases.order(
        config={"train.start": path},
        knobs={"train.start": path},
        data_bucket="gs://images",
    )
    task = plan.make("gpu-1", order)
    assert f"--train.start={placed}" in shlex.split(task["envs"]["ARGS"])
    assert ("/data" in task["file_mounts"]) == placed.startswith("/data")


@pytest.mark.parametrize("knob", ["train.start", "data.hard", "data.exclude"])
def test_a_file_of_this_machine_alone_is_refused(knob, tmp_path):
    config_ = {knob: str(tmp_path), "data.layout": "stardist"}
    config_ |= {"data.path": "a.zip"}
    with pytest.raises(config.ConfigError, match=f"{knob}=.*on this machine"):
        plan.make("gpu-1", cloud_cases.order(config=config_))


def test_what_is_overridden_by_nothing_is_so_on_the_host():
    order = cloud_cases.order(knobs={"data.exclude": "", "train.epochs": "3"})
    words = shlex.split(plan.make("gpu-1", order)["envs"]["ARGS"])
    assert {"--data.exclude=", "--train.epochs=3"} <= set(words)


def test_a_password_is_passed_by_name():
    found = plan.secrets({"MLFLOW_TRACKING_PASSWORD": "x", "HOME": "y"})
    words = skypilot.command(pathlib.Path("a.yaml"), found)
    assert words[-3:] == ["--secret", "MLFLOW_TRACKING_PASSWORD", "a.yaml"]


# ----------------------------------------------------------------- SkyPilot
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_target_says_what_its_file_asks_for(name):
    to = targets.TARGETS[name]
    task = plan.read(to)
    assert set(task["resources"]["accelerators"]) == set(to.accelerators)
    recovery = task["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [33]
    assert task["envs"]["DISTRIBUTED"] == str(to.hosts > 1).lower()
    extra = task["setup"].split()[-1]
    assert extra == ("tpu" if name.startswith("tpu") else "cuda")
    number = int(re.findall(r"\d+", name)[-1])
    assert to.devices == number


SCHEMA = """
import copy, runpy
from launch.cloud import plan, skypilot, targets
from seg import config
def refused(task, match):
    try:
        skypilot.check(task)
    except config.ConfigError as error:
        assert match in str(error), error
    else:
        raise AssertionError("accepted: " + match)
for to in targets.TARGETS.values():
    task = plan.read(to)
    skypilot.check(task)
    refused(task | {"fil_mounts": {}}, "file_mounts")
    for path, key, value, match in (
        (["resources"], "use_spott", True, "use_spot"),
        (["resources"], "use_spot", "maybe", "use_spot"),
        (["resources", "job_recovery"], "recover_on_exit_code", [33], "_codes"),
        (["resources", "job_recovery"], "strategy", "EAGER", "EAGER"),
        (["resources", "job_recovery"], "recover_on_exit_codes", [330], "330"),
        (["file_mounts", "/checkpoints"], "mode", "MONT", "MONT"),
    ):
        wrong = inner = copy.deepcopy(task)
        for part in path:
            inner = inner[part]
        inner[key] = value
        refused(wrong, match)
runpy.run_module("launch.cloud", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("sky") is None, reason="pip install -e .[cloud]"
)
def test_skypilot_takes_every_task_refuses_misspelled_ones_and_a_plan_is_shown(
    tmp_path,
):
    words = ["--target=tpu-v5e-8", "--loss.terms=binary_cross_entropy + dice"]
    done = subprocess.run(
        [sys.executable, "-c", SCHEMA, *GIVEN, *words],
        env=os.environ | {"HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "tpu-v5litepod-8: 1" in done.stdout
    assert "sky jobs launch --detach-run runs/cloud/demo" in done.stdout
    assert "'--loss.terms=binary_cross_entropy + dice'" in done.stdout
    assert not (tmp_path / "runs").exists()  # nothing is written


def test_without_skypilot_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sky", None)
    with pytest.raises(config.UserError, match=r"pip install -e \.\[cloud\]"):
        skypilot.check(plan.make("gpu-1", cloud_cases.order()))
