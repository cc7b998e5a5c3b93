"""`python -m launch.cloud`: what it refuses, and what a host really runs.

Nothing is rented here: SkyPilot reads the tasks offline, bash runs the hosts'
scripts with a `python` that only says what it was given.
"""

import configparser
import importlib.util
import json
import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from launch.cloud import mirror, plan, skypilot, targets
from seg import config

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLOUD = ROOT / "launch/cloud"
GIVEN = (
    "--experiment=" + str(ROOT / "experiments/demo.py"),
    "--checkpoint_bucket=gs://kept-here",
    "--tracking_uri=http://mlflow.example.org:5000",
    "--dry_run",
)
SAYS = """#!{python}
import json, os, sys
with open(os.environ["SAID"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("STATUS", 0)))
"""


def order(**changes):
    knobs = changes.pop("config", {})
    known = {
        "config": config.replace(config.Config(), knobs),
        "experiment": str(ROOT / "experiments/demo.py"),
        "workdir": "demo",
        "checkpoint_bucket": "gs://kept-here",
        "tracking_uri": "http://mlflow.example.org:5000",
    }
    return plan.Order(**known | changes)


@pytest.fixture
def bash(tmp_path):
    """bash(script, **environment) -> (status, what python was given)."""
    folder = tmp_path / "home/seg/bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(SAYS.format(python=sys.executable))
    (folder / "python").chmod(0o755)

    def call(script, **environment):
        said = tmp_path / "said"
        said.unlink(missing_ok=True)
        path = f"{folder}:{os.environ['PATH']}"
        home = str(tmp_path / "home")
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env=os.environ
            | {"HOME": home, "PATH": path, "SAID": str(said)}
            | environment,
        )
        return done.returncode, [
            json.loads(line) for line in said.read_text().splitlines()
        ]

    return call


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target=tpu-v5e-9"], "unknown --target 'tpu-v5e-9'; did you mean"),
        (["--target=gpu-1", "--accelerator=H10"], "did you mean H100"),
        (["--target=gpu-1", "--modle.width=8"], "did you mean model.width"),
        (["--target=gpu-1", "--model.name=unett"], "did you mean unet"),
        (["--target=gpu-1", "--loss.terms=dise"], "dise"),
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


def test_an_experiment_that_the_hosts_do_not_get_is_refused(tmp_path):
    outside = tmp_path / "mine.py"
    outside.touch()
    for path in outside, ROOT / "runs/demo/config.json":
        with pytest.raises(config.ConfigError, match="copy it to experiments"):
            plan.make("gpu-1", order(experiment=str(path)))


def test_an_accelerator_in_a_file_that_is_not_on_the_list_is_refused(
    monkeypatch, tmp_path
):
    text = (CLOUD / "gpu-1.yaml").read_text()
    (tmp_path / "gpu-1.yaml").write_text(text.replace("L4: 1", "L44: 1"))
    monkeypatch.setattr(targets, "FOLDER", tmp_path)
    with pytest.raises(config.ConfigError, match="accelerator 'L44'"):
        plan.make("gpu-1", order())


# ---------------------------------------------------------------- the hosts
NASTY = [
    "cross_entropy + dice",
    "a,b;c&d|e>f<g",
    'it\'s "so" \\ $HOME ${HOME} $(false) `false`',
    "*?[a-z]~!#%^{x,y}",
    "two\nlines\tand\ttabs ",
    "",
    "-- --x=y",
    "naïve µm ✓",
]
ANY = "ab \t\n'\"\\$`(){}[]<>|&;*?!#~=+-,.:/%^@µ"


def nasty():
    """Strings that a shell likes to change; the last ones are drawn."""
    rng = random.Random(0)
    drawn = ("".join(rng.choices(ANY, k=rng.randrange(40))) for _ in range(25))
    return [*NASTY, *drawn]


@pytest.mark.parametrize("tiles", ["", "packs/all of it.npz"])
def test_flags_reach_the_training_as_they_were_given(bash, tmp_path, tiles):
    values = nasty()
    extra = tuple(f"--flag{i}={value}" for i, value in enumerate(values))
    task = plan.make(
        "tpu-v5e-16",
        order(
            extra=extra,
            tiles=tiles,
            data_bucket="gs://images",
            config={"train.batch_size": 64},
        ),
    )
    task = json.loads(json.dumps(task))
    status, ran = bash(task["run"], **task["envs"])
    assert status == 0
    given = ["--experiment=experiments/demo.py", *extra]
    *prepared, trained = ran
    expected = [["-m", "launch.prepare", *given]] if not tiles else []
    assert prepared == expected
    disk = f"{tmp_path}/home/runs/demo"
    assert trained == [
        "-m", "launch.cloud.mirror", disk, "/checkpoints/demo", "--",
        "python", "-m", "launch.train", *given,
        f"--workdir={disk}", "--mesh.distributed=true",
        *[f"--tiles=/data/{tiles}"][: len(tiles)],
    ]  # fmt: skip
    # what is printed does the same
    assert bash("\n".join(plan.commands(task))) == (0, ran)


def test_the_status_of_the_training_is_the_hosts_and_skypilots(bash):
    task = plan.make("gpu-1", order(tiles="a.npz", data_bucket="s3://images"))
    # SkyPilot appends to the script, and asks for the status there
    script = task["run"] + "\nkept=$?\nexit $kept"
    status, _ = bash(script, **task["envs"], STATUS="33")
    assert status == 33


def test_a_host_without_its_images_does_not_train(bash):
    task = plan.make("gpu-1", order())
    status, ran = bash(task["run"], **task["envs"], STATUS="2")
    assert status == 2
    assert [words[1] for words in ran] == ["launch.prepare"]


def test_files_are_where_the_bucket_is_mounted():
    asked = {"data.layout": "stardist", "data.path": "sets/a.zip"}
    task = plan.make(
        "gpu-8",
        order(
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
    assert "/data" not in plan.make("gpu-1", order())["file_mounts"]


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
    assert "sky jobs launch --yes --detach-run runs/cloud/demo" in done.stdout
    assert "'--loss.terms=binary_cross_entropy + dice'" in done.stdout
    assert not (tmp_path / "runs").exists()  # nothing is written


def test_without_skypilot_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sky", None)
    with pytest.raises(config.UserError, match=r"pip install -e \.\[cloud\]"):
        skypilot.check(plan.make("gpu-1", order()))


# ------------------------------------------------------------------- mirror
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


def test_a_bucket_that_refuses_is_an_error_though_the_training_is_done(
    tmp_path, monkeypatch
):
    (tmp_path / "bucket").write_text("not a folder")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/log.txt").touch()
    monkeypatch.setattr(time, "sleep", lambda _: None)
    copy = mirror.Mirror(tmp_path / "disk", tmp_path / "bucket")
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert mirror.run(copy, ["true"], 1.0) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------- SLURM
@pytest.fixture
def slurm(bash, tmp_path):
    """slurm(status, *words) -> (status, what python was given, requeued)."""
    tools = tmp_path / "tools"
    (tmp_path / ".venv/bin").mkdir(parents=True)
    tools.mkdir()
    python = tmp_path / "home/seg/bin/python"
    (tmp_path / ".venv/bin/python").symlink_to(python)
    (tools / "srun").write_text('#!/bin/bash\nshift\nexec "$@"\n')
    (tools / "scontrol").write_text('#!/bin/bash\necho "$@" > requeued\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)

    def call(status, *words, **environment):
        script = shlex.join(["bash", str(CLOUD / "slurm.sh"), *words])
        found, said = bash(
            f'PATH="{tools}:$PATH" {script}',
            SLURM_SUBMIT_DIR=str(tmp_path),
            SLURM_JOB_ID="7",
            STATUS=str(status),
            **environment,
        )
        return found, said, (tmp_path / "requeued").exists()

    return call


def test_a_job_of_slurm_passes_its_flags_and_is_queued_again_on_33(slurm):
    words = ["launch.train", *(f"--x={value}" for value in nasty())]
    assert slurm(0, *words) == (0, [["-m", *words]], False)
    assert slurm(2, *words) == (2, [["-m", *words]], False)
    status, said, requeued = slurm(33, *words, SLURM_NTASKS="8")
    assert (status, requeued) == (33, True)
    assert said == [["-m", *words, "--mesh.distributed=true"]]


def test_a_signal_to_a_job_of_slurm_reaches_the_training(tmp_path):
    (tmp_path / "srun").write_text(
        "#!/bin/bash\ntrap 'sleep 0.2; exit 33' TERM\ntouch began\n"
        "while :; do sleep 0.05; done\n"
    )
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@" > requeued\n')
    for name in "srun", "scontrol":
        (tmp_path / name).chmod(0o755)
    process = subprocess.Popen(
        ["bash", str(CLOUD / "slurm.sh"), "launch.train"],
        env=os.environ
        | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "7",
        },
    )
    while not (tmp_path / "began").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 33
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


# ------------------------------------------------------------ what is there
@pytest.mark.parametrize("name", ["setup.sh", "host.sh", "slurm.sh"])
def test_a_script_is_executable_and_parses(name):
    assert os.access(CLOUD / name, os.X_OK)
    subprocess.run(["bash", "-n", str(CLOUD / name)], check=True)


def test_the_dockerfile_copies_what_is_there_and_installs_known_extras():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    text = (CLOUD / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    steps = [line.split() for line in lines if line]
    for words in steps:
        if words[0] == "COPY":
            for source in words[1:-1]:
                assert (ROOT / source).exists(), source
    for names in re.findall(r"EXTRAS[=:] ?([a-z,]+)", text):
        assert set(names.split(",")) <= extras
    assert steps[0][0] == "FROM"
    users = [words[1] for words in steps if words[0] == "USER"]
    assert users == ["seg"]
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert json.loads(entry.split(" ", 1)[1]) == ["python", "-m"]
