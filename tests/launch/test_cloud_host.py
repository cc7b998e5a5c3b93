"""What a rented host really runs, and a cluster's job.

bash runs the scripts with a `python` that only says what it was given.
"""

import configparser
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from launch.cloud import plan
from tests.launch import cloud_cases

SAYS = """#!{python}
import json, os, sys
with open(os.environ["SAID"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("STATUS", 0)))
"""
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
            cwd=cloud_cases.ROOT,
            env=os.environ
            | {"HOME": home, "PATH": path, "SAID": str(said)}
            | environment,
        )
        return done.returncode, [
            json.loads(line) for line in said.read_text().splitlines()
        ]

    return call


@pytest.mark.parametrize("tiles", ["", "packs/all of it.npz"])
def test_flags_reach_the_training_as_they_were_given(bash, tmp_path, tiles):
    values = nasty()
    extra = tuple(f"--flag{i}={value}" for i, value in enumerate(values))
    task = plan.make(
        "tpu-v5e-16",
        cloud_cases.order(
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
    task = plan.make(
        "gpu-1", cloud_cases.order(tiles="a.npz", data_bucket="s3://images")
    )
    # SkyPilot appends to the script, and asks for the status there
    script = task["run"] + "\nkept=$?\nexit $kept"
    status, _ = bash(script, **task["envs"], STATUS="33")
    assert status == 33


def test_a_host_without_its_images_does_not_train(bash):
    task = plan.make("gpu-1", cloud_cases.order())
    status, ran = bash(task["run"], **task["envs"], STATUS="2")
    assert status == 2
    assert [words[1] for words in ran] == ["launch.prepare"]


# --------------------------------------------------------------------- SLURM
@pytest.fixture
def slurm(bash, tmp_path):
    """slurm(status, *words) -> (status, what python was given, requeued)."""
    tools = tmp_path / "tools"
    (tmp_path / ".venv/bin").mkdir(parents=True)
    tools.mkdir()
    python = tmp_path / "home/seg/bin/python"
    (tmp_path / ".venv/bin/python").symlink_to(python)
    options = 'while [[ "$1" == --* ]]; do echo "$1" >> srun; shift; done'
    _tool(tools / "srun", f'{options}; exec "$@"')
    _tool(tools / "scontrol", 'echo "$@" > requeued')

    def call(status, *words, **environment):
        script = shlex.join(
            ["bash", str(cloud_cases.CLOUD / "slurm.sh"), *words]
        )
        found, said = bash(
            f'PATH="{tools}:$PATH" {script}',
            SLURM_SUBMIT_DIR=str(tmp_path),
            SLURM_JOB_ID="7",
            STATUS=str(status),
            **environment,
        )
        return found, said, (tmp_path / "requeued").exists()

    return call


def _tool(path, script):
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def test_a_job_of_slurm_passes_its_flags_and_status(slurm, tmp_path):
    words = ["launch.train", *(f"--x={value}" for value in nasty())]
    assert slurm(0, *words) == (0, [["-m", *words]], False)
    assert slurm(2, *words) == (2, [["-m", *words]], False)
    # a training that somebody stopped, scancel with it, is not begun again
    status, said, requeued = slurm(33, *words, SLURM_NTASKS="8")
    assert (status, requeued) == (33, False)
    assert said == [["-m", *words, "--mesh.distributed=true"]]
    # the tasks of a sweep share its trials, and do not train one together
    words[0] = "launch.sweep"
    known = {"SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "3"}
    assert slurm(0, *words, **known) == (0, [["-m", *words]], False)
    said = (tmp_path / "srun").read_text()
    assert "--cpus-per-task=3\n" in said


@pytest.mark.parametrize(
    ("state", "again"),
    [
        ("RUNNING", True),
        ("", True),
        ("CANCELLED", False),
        ("COMPLETING", False),
    ],
)
def test_the_signal_before_the_end_saves_and_queues_the_job_again(
    tmp_path, state, again
):
    _tool(
        tmp_path / "srun",
        "trap 'sleep 0.2; exit 33' TERM\ntouch began\n"
        "while :; do sleep 0.05; done",
    )
    _tool(tmp_path / "scontrol", 'echo "$@" > requeued')
    _tool(tmp_path / "squeue", f"echo {state}")
    process = subprocess.Popen(
        ["bash", str(cloud_cases.CLOUD / "slurm.sh"), "launch.train"],
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
    requeued = tmp_path / "requeued"
    assert requeued.exists() == again
    assert not again or requeued.read_text() == "requeue 7\n"


# ------------------------------------------------------------ what is there
@pytest.mark.parametrize("name", ["setup.sh", "host.sh", "slurm.sh"])
def test_a_script_is_executable_and_parses(name):
    assert os.access(cloud_cases.CLOUD / name, os.X_OK)
    subprocess.run(["bash", "-n", str(cloud_cases.CLOUD / name)], check=True)


def test_the_dockerfile_copies_what_is_there_and_installs_known_extras():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(cloud_cases.ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    text = (cloud_cases.CLOUD / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    steps = [line.split() for line in lines if line]
    for words in steps:
        if words[0] == "COPY":
            for source in words[1:-1]:
                assert (cloud_cases.ROOT / source).exists(), source
    for names in re.findall(r"EXTRAS[=:] ?([a-z,]+)", text):
        assert set(names.split(",")) <= extras
    assert steps[0][0] == "FROM"
    users = [words[1] for words in steps if words[0] == "USER"]
    assert users == ["seg"]
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert json.loads(entry.split(" ", 1)[1]) == ["python", "-m"]
