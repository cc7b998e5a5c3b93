"""One job of a sweep in its folder: what it consists of, how far it came.

    config.json, done, ...  as launch.train leaves them
    asked.json              the config that the job shall have
    state.json              stages that ended, with minutes; failures, and why
    output.txt              all that its processes said
    job.lock                held while a process works here

A job is a row of ordinary commands, each a process of its own: what one of
them breaks, or takes of memory, ends with it. They die with this process, in
good order, and get no signal but from it.
"""

import ctypes
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from seg import config as config_lib
from seg import flags as seg_flags
from seg import locks
from seg.images import write
from seg.train import tracking

_PR_SET_PDEATHSIG = 1
_PAUSE_S = 0.5  # between two looks whether a workdir is free
_FAILURES = 2  # after which a job is not tried again
_libc = ctypes.CDLL(None)


@dataclasses.dataclass(frozen=True)
class Job:
    """A training, an evaluation of a training of another folder, or both.

    Parameters
    ----------
    stages : of "prepare", "train", "adopt" (the model of `training` becomes
        this folder's), "val" and "test" (evaluations).
    training : the job whose model is scored; None: it trains itself.
    """

    name: str
    folder: pathlib.Path
    config: config_lib.Config
    stages: tuple[str, ...]
    training: "Job | None" = None
    tiles: str = ""

    @property
    def lock(self) -> pathlib.Path:
        """The file that is locked while a process works here."""
        return self.folder / "job.lock"

    def state(self) -> "State":
        """How far the job came."""
        try:
            return State(**json.loads((self.folder / "state.json").read_text()))
        except FileNotFoundError:
            return State()

    def is_done(self) -> bool:
        """Whether all stages have ended, and the model is here."""
        # a folder that was copied by its files has lost its link
        here = not self.training or bundle(self).is_symlink()
        return here and set(self.stages) <= set(self.state().minutes)

    def write(self, state: "State") -> None:
        """Keeps how far the job came."""
        with write.whole(self.folder / "state.json") as part:
            part.write_text(json.dumps(dataclasses.asdict(state)) + "\n")


@dataclasses.dataclass
class State:
    """Minutes by stage that has ended; failures so far, and the last one."""

    minutes: dict[str, float] = dataclasses.field(default_factory=dict)
    failures: int = 0
    why: str = ""

    @property
    def given_up(self) -> bool:
        """Whether it has failed too often to be tried again."""
        return self.failures >= _FAILURES


class Children:
    """The processes that run now; once they are stopped, none starts."""

    def __init__(self):
        self.stopped = False
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()

    def run(self, argv: list[str], output: pathlib.Path, env: Any) -> int:
        """The exit status of a command, whose words go to the end of a file."""
        with output.open("ab") as file:
            with self._lock:
                if self.stopped:
                    return seg_flags.STOPPED
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=_alone() | env,
                    start_new_session=True,  # Ctrl-C is for this process
                    preexec_fn=_die_with_parent,
                )
                self._running.add(child)
            status = child.wait()
            with self._lock:
                self._running.discard(child)
        return status

    def stop(self) -> None:
        """Asks all of them to save and end."""
        with self._lock:
            self.stopped = True
            for child in self._running:
                child.send_signal(signal.SIGTERM)


def _alone() -> dict[str, str]:
    """This environment, without the words by which processes find each other.

    Sweeps that SLURM starts side by side share trials: a trial is one process.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    kept = {k: v for k, v in os.environ.items() if k not in names}
    if "SLURM_STEP_NUM_TASKS" in kept:
        kept["SLURM_STEP_NUM_TASKS"] = "1"
    return kept


def _die_with_parent() -> None:
    # else, after a kill -9, trainings would go on beside those of a rerun
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run(job: Job, children: Children, env: dict[str, str]) -> str:
    """Works on a job whose lock is held: "done", "failed" or "stopped"."""
    state = job.state()
    _ask(job)
    output = job.folder / "output.txt"
    for stage in job.stages:
        if stage == "adopt":
            _adopt(job)
            state.minutes[stage] = 0.0
        if stage in state.minutes:
            continue
        _wait_for_orphan(job, children)
        began, said = time.monotonic(), _size(output)
        status = children.run(_command(job, stage), output, env)
        if status == seg_flags.STOPPED or (status and children.stopped):
            return "stopped"
        why = _why(status, output, said)
        if stage == "train" and not why and not bundle(job).is_dir():
            why = f"{job.config.train.monitor} was never a number: no model"
        if why:
            state.failures, state.why = state.failures + 1, why
            job.write(state)
            return "failed"
        state.minutes[stage] = (time.monotonic() - began) / 60
        state.failures, state.why = 0, ""
        job.write(state)
    return "done"


def _wait_for_orphan(job: Job, children: Children) -> None:
    """Until a training has ended whose sweep was killed.

    It was asked to end with its parent, and does so after the step it is in,
    or what it compiles; until then it holds the workdir.
    """
    while locks.is_held(job.folder / "lock") and not children.stopped:
        time.sleep(_PAUSE_S)


def bundle(job: Job) -> pathlib.Path:
    """Where the trained model of a job lies."""
    return job.folder / "bundle"


def _ask(job: Job) -> None:
    """Writes the job's config, without the password that a URI may hold."""
    uri = tracking.redact(job.config.track.uri)
    text = config_lib.to_json(
        config_lib.replace(job.config, {"track.uri": uri})
    )
    job.folder.mkdir(parents=True, exist_ok=True)
    with write.whole(job.folder / "asked.json") as part:
        part.write_text(text)


def _adopt(job: Job) -> None:
    """Makes the folder a finished run with the model of another one."""
    assert job.training is not None
    link, model = bundle(job), bundle(job.training)
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(model, link.parent))
    text = (job.folder / "asked.json").read_text()
    with write.whole(job.folder / "config.json") as part:
        part.write_text(text)
    (job.folder / "done").touch()


def _command(job: Job, stage: str) -> list[str]:
    asked = f"--experiment={job.folder / 'asked.json'}"
    place = [
        f"--workdir={job.folder}",
        *[f"--tiles={job.tiles}"] * bool(job.tiles),
    ]
    if stage == "prepare":
        words = ["launch.prepare", asked]
    elif stage == "train":
        words = ["launch.train", asked, *place]
    else:
        track = job.config.track
        words = [
            "launch.evaluate", asked, *place, f"--split={stage}",
            "--nobaseline", f"--track.run_name={track.run_name}",
            f"--track.parent={track.parent}",
        ]  # fmt: skip
    return [sys.executable, "-m", *words]


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _why(status: int, output: pathlib.Path, said: int) -> str:
    """Why a process failed, in a line; empty if it did not."""
    if not status:
        return ""
    if status < 0:
        name = signal.Signals(-status).name
        memory = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f"ended by {name}{memory}"
    with output.open("rb") as file:
        file.seek(said)
        lines = file.read().decode(errors="replace").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    told = [line for line in lines if line.startswith("error: ")] or lines
    line = told[-1].removeprefix("error: ") if told else "no word"
    return f"exit {status}: {line}"[:500]
