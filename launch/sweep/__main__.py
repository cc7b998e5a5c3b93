"""Trains what an experiment's SWEEP asks for, and compares it.

python -m launch.sweep --experiment=FILE [--workdir=DIR] [--any.knob=value]

SWEEP stands beside get_config(): a grid {"model.name": ["unet", "segnet"]}, a
list of trials [{...}, {...}], or a search {"search": "tpe", "trials": 20,
"optim.learning_rate": ("log", 1e-4, 1e-2)}. Each trial is a training of its own
in WORKDIR/NAME, and a run within the sweep's in MLflow. The same command again
goes on: what is done stays, what was stopped resumes, what failed is tried
once more. Several such processes on one workdir share the trials.

Exit status: 0 done, or the rest is done by other processes; 2 bad input; 3
some trials failed; 33 stopped by a signal: the same command goes on.
"""

import dataclasses
import json
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from absl import flags

from launch.sweep import plan as plan_lib
from launch.sweep import report, results, search, share, work
from seg import config as config_lib
from seg import flags as seg_flags
from seg.train import stop, tracking

FLAGS = flags.FLAGS

# Nothing here may touch a device: those are the trainings'.


def define() -> None:
    """The flags of this command."""
    seg_flags.define()
    flags.DEFINE_string("workdir", None, "folder of the run or sweep")
    flags.DEFINE_list("seeds", [], "repeat each trial with these seeds")
    flags.DEFINE_integer(
        "trials",
        0,
        "trials at most, of a search in all; 0 = as SWEEP says",
        lower_bound=0,
    )
    flags.DEFINE_integer("jobs", 1, "trials at a time", lower_bound=1)
    flags.DEFINE_list(
        "gpus", [], "GPUs, as 0,1,2,3: each has a trial of its own, at a time"
    )
    flags.DEFINE_bool("evaluate", False, "score the trials on the test images")
    flags.DEFINE_string("tiles", "", "a pack in place of data.dir")
    flags.DEFINE_bool("dry_run", False, "check and list, and no more")


def main(argv: list[str]) -> int:
    """Sweeps as the flags say."""
    seg_flags.no_arguments(argv)
    seg_flags.show_log()
    plan, swept = planned()
    _check_gpus()
    if plan.base.mesh.distributed:
        raise config_lib.ConfigError(
            "--mesh.distributed: a trial is one process; start as many sweeps "
            "of one workdir as there are hosts, they share the trials"
        )
    workdir = seg_flags.workdir()
    if plan.search:
        search.library()
    sweep = share.Sweep(
        plan, workdir, evaluate=FLAGS.evaluate, tiles=FLAGS.tiles
    )
    about = {"experiment": FLAGS.experiment, "sweep": _plain(swept)}
    tags = {
        "sweep": ", ".join(plan.knobs),
        "sweep.experiment": FLAGS.experiment,
    }
    with stop.Signals() as signals:
        _preflight(sweep, signals)
        if FLAGS.dry_run:
            _list(plan)
            return seg_flags.DONE
        sweep.open(about)
        parent = report.Parent(sweep, tags)
        with sweep.lock():
            parent.begin()
        sweep.parent = parent.run
        workers = share.Workers(sweep, lambda line: print(line, flush=True))
        workers.start(_environments(plan.base))
        stopped = _wait(workers, signals)
        return _end(sweep, parent, stopped or workers.interrupted)


def planned() -> tuple[plan_lib.Plan, Any]:
    """The plan of this command line, and the SWEEP that it is of."""
    if not FLAGS.experiment:
        raise config_lib.ConfigError("which sweep? give --experiment=FILE")
    config = seg_flags.resolve()
    file, _ = seg_flags.named(FLAGS.experiment)
    module = None
    if file.suffix == ".py":
        module = seg_flags.experiment_module(file)
    if not hasattr(module, "SWEEP"):
        raise config_lib.ConfigError(
            f"--experiment={FLAGS.experiment} has no SWEEP; define one beside "
            "get_config(), as SWEEP = {'model.name': ['unet', 'segnet']}"
        )
    swept = module.SWEEP
    points = swept if isinstance(swept, list | tuple) else [swept]
    for point in points:
        if not isinstance(point, Mapping):
            continue  # the plan says what it should be
        for knob in set(seg_flags.overrides()).intersection(point):
            raise config_lib.ConfigError(
                f"--{knob}: SWEEP varies it; change it there"
            )
    plan = plan_lib.make(config, swept, seeds=_seeds(), n_trials=FLAGS.trials)
    return plan, swept


def _seeds() -> list[int]:
    try:
        return [int(seed) for seed in FLAGS.seeds]
    except ValueError as error:
        raise config_lib.ConfigError(
            f"--seeds={','.join(FLAGS.seeds)}; give whole numbers, as 0,1,2"
        ) from error


def _check_gpus() -> None:
    """CUDA passes over a name it does not know: trials would use the CPU."""
    for name in FLAGS.gpus:
        if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", name):
            raise config_lib.ConfigError(
                f"--gpus={','.join(FLAGS.gpus)}; give their numbers, as 0,1,2"
            )


def _plain(swept: Any) -> Any:
    """SWEEP as JSON has it, to compare with that of a file."""
    return json.loads(json.dumps(swept))


def _preflight(sweep: share.Sweep, signals: stop.Signals) -> None:
    """Raises ConfigError for a trial that could not begin, before any does."""
    if sweep.has_begun():
        return
    configs = [
        config_lib.replace(config, {"track.uri": ""})
        for config in sweep.plan.samples()
    ]
    with tempfile.TemporaryDirectory() as folder:
        file, output = (
            pathlib.Path(folder, "asked"),
            pathlib.Path(folder, "out"),
        )
        file.write_text(json.dumps([dataclasses.asdict(c) for c in configs]))
        command = [sys.executable, "-m", "launch.sweep.preflight", str(file)]
        status = work.Children().run(
            [*command, *filter(None, [sweep.tiles])],
            output,
            # whatever devices there are, they are for the trainings
            {"JAX_PLATFORMS": "cpu"},
        )
        try:
            signals.check()
        except stop.Interrupted as error:
            raise seg_flags.Stopped(f"{error}; nothing has begun") from error
        if status:
            lines = output.read_text().strip().split("\n")
            raise config_lib.ConfigError(lines[-1].removeprefix("error: "))


def _environments(config: config_lib.Config) -> list[dict[str, str]]:
    """What the processes of each thread find in their environment."""
    env = {}
    if tracking.redact(config.track.uri) != config.track.uri:
        env["MLFLOW_TRACKING_URI"] = config.track.uri  # never in a file
    if FLAGS.gpus:
        return [env | {"CUDA_VISIBLE_DEVICES": gpu} for gpu in FLAGS.gpus]
    return [env] * FLAGS.jobs


def _wait(workers: share.Workers, signals: stop.Signals) -> str:
    """Waits for the threads; the signal that stopped them, if one did."""
    stopped = ""
    while workers.running():
        time.sleep(0.1)
        try:
            signals.check()
        except stop.Interrupted as error:
            if not stopped:
                stopped = str(error)
                workers.children.stop()
    return stopped


def _end(sweep: share.Sweep, parent: report.Parent, stopped: str | bool) -> int:
    """The report, and the exit status."""
    text, found, files = report.make(sweep)
    statuses = [each.status for each in found]
    print(f"\n{text}\n" + "\n".join(map(str, files)))
    status = "FINISHED"
    if "running" in statuses:
        status = ""  # other processes go on
    elif stopped or {"stopped", "waiting"}.intersection(statuses):
        status = "KILLED"
    elif "failed" in statuses:
        status = "FAILED"
    with sweep.lock():
        parent.end(found, files, status)
    for each in found:
        if each.status == "failed":
            print(f"{each.trial.name} failed: {each.why}{_remedy(sweep, each)}")
    if stopped:
        raise seg_flags.Stopped(
            f"{stopped if isinstance(stopped, str) else 'a trial'}; saved in "
            f"{sweep.workdir}, the same command goes on"
        )
    return seg_flags.SOME_FAILED if "failed" in statuses else seg_flags.DONE


def _remedy(sweep: share.Sweep, failed: results.Result) -> str:
    job = sweep.job(failed.trial)
    for each in (job, job.training):
        if each and each.state().given_up:
            return f"; twice: to try again, remove {each.folder}/state.json"
    return "; the same command tries it once more"


def _list(plan: plan_lib.Plan) -> None:
    if plan.search:
        print(f"{plan.search.n_trials} trials by {plan.search.method}:")
        for knob, values in plan.search.space.items():
            print(f"  {knob}: {values}")
    for trial in plan.trials:
        print(trial.name)


if __name__ == "__main__":
    define()
    seg_flags.run(main)
