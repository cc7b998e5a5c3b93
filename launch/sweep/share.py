"""The trials of a sweep among threads and processes, each of them once.

`sweep.json` in the workdir says what the sweep is: the base config, SWEEP, and
the trials so far. It is written whole, under `sweep.lock`, by whoever is first
and by whoever adds the next trial of a search. A job is worked on by who holds
its lock; the kernel gives the locks of a killed process up.
"""

import contextlib
import dataclasses
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from launch.sweep import plan as plan_lib
from launch.sweep import results, same, search, work
from seg import config as config_lib
from seg import locks
from seg.images import write

_PAUSE_S = 1.0  # between two looks whether another's training has ended


@dataclasses.dataclass
class Sweep:
    """A sweep in its workdir.

    Parameters
    ----------
    evaluate : whether the trials are scored on the test images.
    parent : id of the run that the trials' runs are part of.
    """

    plan: plan_lib.Plan
    workdir: pathlib.Path
    evaluate: bool = False
    tiles: str = ""
    parent: str = ""
    _failures: dict[str, int] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held for a moment by whoever looks for work, or at others'."""
        with locks.held(self.workdir / "sweep.lock"):
            yield

    def open(self, about: dict[str, Any]) -> None:
        """Begins the sweep here, or goes on with it.

        about: {"experiment": ..., "sweep": ...} as JSON values, for the file.
        Raises ConfigError where the workdir holds another sweep, or a trial
        under this name that was trained otherwise.
        """
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise config_lib.UserError(
                f"--workdir={self.workdir}: {error.strerror}; choose another"
            ) from error
        with self.lock():
            before = self._read()
            if not before and (self.workdir / "config.json").exists():
                raise config_lib.UserError(
                    f"--workdir={self.workdir} is a run's; choose another"
                )
            if before:
                same.check_sweep(self.plan, before, about, self.workdir)
            body = {"trials": [], **before, **about}
            base = config_lib.replace(self.plan.base, {"track.uri": ""})
            body["base"] = json.loads(config_lib.to_json(base))
            if not self.plan.search:
                body["trials"] = [vars(trial) for trial in self.plan.trials]
            self._write(body)
            for job in self.jobs():
                same.check_config(job)
                self._failures[job.name] = job.state().failures
        same.check_data(self.jobs())

    def has_begun(self) -> bool:
        """Whether no trial is new here, as far as can be known."""
        return bool(self._read()) and all(
            (job.folder / "asked.json").exists()
            for job in ([] if self.plan.search else self.jobs())
        )

    def trials(self) -> list[plan_lib.Trial]:
        """The trials so far."""
        if not self.plan.search:
            return list(self.plan.trials)
        found = []
        for trial in self._read()["trials"]:
            flat = config_lib.to_flat(
                config_lib.replace(self.plan.base, trial["changes"])
            )
            changes = {knob: flat[knob] for knob in trial["changes"]}
            found.append(plan_lib.Trial(trial["name"], changes))
        return found

    def jobs(self) -> list[work.Job]:
        """All that there is to do, in order: what is needed stands before."""
        found = {}
        for trial in self.trials():
            job = self.job(trial)
            if job.training:
                found.setdefault(job.training.folder, job.training)
            found[job.folder] = job
        return list(found.values())

    def job(self, trial: plan_lib.Trial) -> work.Job:
        """What a trial consists of."""
        test = ("test",) * self.evaluate
        if not self.plan.shared:
            stages = (*self._trained(), *test)
            return self._job(trial, trial.name, stages)
        shared = self.plan.training(trial)
        place = f"trainings/{shared.name}"
        training = self._job(shared, place, self._trained())
        stages = ("adopt", "val", *test)
        return self._job(trial, trial.name, stages, training)

    def _trained(self) -> tuple[str, ...]:
        return ("train",) if self.tiles else ("prepare", "train")

    def _job(
        self,
        trial: plan_lib.Trial,
        name: str,
        stages: tuple[str, ...],
        training: work.Job | None = None,
    ) -> work.Job:
        # a run has its folder's name; told as a param, it would differ in all
        told = "" if name == trial.name else name
        run = {"track.parent": self.parent, "track.run_name": told}
        return work.Job(
            name=name,
            folder=self.workdir / name,
            config=config_lib.replace(self.plan.config(trial), run),
            stages=stages,
            training=training,
            tiles=self.tiles,
        )

    @contextlib.contextmanager
    def next(self) -> Iterator[tuple[work.Job | None, bool]]:
        """Yields (a job to do now and held, or None; whether to ask again)."""
        with contextlib.ExitStack() as held:
            with self.lock():
                job, n_busy, blocked = self._claim(held)
                if not job and self._grow(n_busy):
                    job, n_busy, blocked = self._claim(held)
            yield job, bool(n_busy and blocked)

    def _claim(
        self, held: contextlib.ExitStack
    ) -> tuple[work.Job | None, int, bool]:
        """(A job, how many are done by others, whether one waits for those)."""
        n_busy, blocked = 0, False
        for job in self.jobs():
            if job.is_done() or not self._may_run(job):
                continue
            if job.training and not job.training.is_done():
                blocked |= self._may_run(job.training)
                continue
            try:
                job.folder.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(contextlib.ExitStack())
                lock.enter_context(locks.held(job.lock, wait=False))
            except locks.BusyError:
                n_busy += 1
                continue
            # whoever held it may have ended it since the look above
            if job.is_done() or not self._may_run(job):
                lock.close()
                continue
            same.check_config(job)  # of a process with another SWEEP
            self._failures[job.name] = -1  # not once more in this process
            return job, n_busy, False
        return None, n_busy, blocked

    def _may_run(self, job: work.Job) -> bool:
        """A failed job is tried once more, and only after the sweep ended."""
        state = job.state()
        return not state.failures or (
            not state.given_up
            and state.failures == self._failures.get(job.name, 0)
        )

    def _grow(self, n_busy: int) -> bool:
        """Adds the next trial of a search, if there is one.

        Not one more than can be done at once: of trials that share a
        training, all would be there before one of them has a score.
        """
        plan, trials = self.plan, self.trials()
        if not plan.search or len(trials) >= plan.search.n_trials:
            return False
        known = [
            (trial.changes, found.score, found.status in ("done", "failed"))
            for trial in trials
            for found in [results.result(trial, self.job(trial))]
        ]
        lower = plan.base.train.lower_is_better
        if sum(not ended for _, _, ended in known) > n_busy:
            return False
        changes = search.propose(plan.search, known, lower)
        if changes is None:
            return False
        added = plan.named(changes, f"{len(trials):03d}")
        body = self._read()
        body["trials"].append(vars(added))
        self._write(body)
        return True

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads((self.workdir / "sweep.json").read_text())
        except FileNotFoundError:
            return {}

    def _write(self, body: dict[str, Any]) -> None:
        with write.whole(self.workdir / "sweep.json") as part:
            part.write_text(json.dumps(body, indent=2) + "\n")


class Workers:
    """Threads that work on a sweep until nothing is left for them."""

    def __init__(self, sweep: Sweep, say: Callable[[str], None]):
        self.children = work.Children()
        self.interrupted = False  # a trial was stopped
        self._sweep = sweep
        self._say = say
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def start(self, envs: list[dict[str, str]]) -> None:
        """Starts a thread for each environment of its processes."""
        for env in envs:
            thread = threading.Thread(target=self._work, args=(env,))
            thread.start()
            self._threads.append(thread)

    def running(self) -> bool:
        """Whether any thread still works; raises what one of them raised."""
        running = any(thread.is_alive() for thread in self._threads)
        if not running and self._error:
            raise self._error
        return running

    def _work(self, env: dict[str, str]) -> None:
        try:
            while not self.children.stopped:
                with self._sweep.next() as (job, wait):
                    if job:
                        self._run(job, env)
                    elif not wait:
                        return
                if not job:
                    time.sleep(_PAUSE_S)
        # told by the main thread; the other threads' trials are saved
        except BaseException as error:
            self._error = error
            self.children.stop()

    def _run(self, job: work.Job, env: dict[str, str]) -> None:
        again = " again" if job.state().failures else ""
        self._say(f"{job.name}: begins{again}, see {job.folder / 'output.txt'}")
        began = time.monotonic()
        status = work.run(job, self.children, env)
        minutes = (time.monotonic() - began) / 60
        why = f": {job.state().why}" if status == "failed" else ""
        score = ""
        if status == "done" and (value := results.score(job)) is not None:
            score = f", {job.config.train.monitor} {value:.4f}"
        self._say(f"{job.name}: {status} in {minutes:.1f} min{score}{why}")
        if status == "stopped":
            self.interrupted = True
            self.children.stop()
