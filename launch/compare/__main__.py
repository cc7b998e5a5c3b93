"""Compares trained runs on one page: a table, curves, the same images.

python -m launch.compare RUN RUN ... [--out=DIR]

RUN is the folder of a run of launch.train, a folder that holds some (runs, or
a sweep's), or a pattern ("runs/unet*"). DIR (runs/compare) gets compare.html,
which needs no other file, table.csv with all metrics, and the curves; the table
is printed, too. In MLflow they are the files of a run with DIR's name, in the
experiment of the first run (--track.uri, --track.experiment: elsewhere).

Nothing is changed in the runs, which may be in training still. Exit status: 0
done; 2 bad input.
"""

import hashlib
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from launch.compare import knobs as knobs_lib
from launch.compare import report
from launch.compare import runs as runs_lib
from seg import config as config_lib
from seg import flags as seg_flags
from seg.train import tracking

FLAGS = flags.FLAGS


def define() -> None:
    """The flags of this command."""
    seg_flags.define(
        ["track"], experiment=False, default="the first run's, or as said above"
    )
    flags.DEFINE_string("out", "runs/compare", "folder of the results")


def main(argv: list[str]) -> int:
    """Compares as the command line says."""
    seg_flags.show_log()
    folders = runs_lib.find(argv)
    out = _out()
    runs = runs_lib.read_all(folders)
    config = _config(runs, out)
    tracker = tracking.build(config.track, _record(runs, config, out))
    made = report.make(runs, out)
    print(made.text)
    for path in made.files:
        print(path)
    for text in made.remarks:
        print(f"note: {text}", file=sys.stderr)
    tracker.start(
        config,
        {"compare": ", ".join(run.name for run in runs)},
        varied=knobs_lib.differing([run.config for run in runs]),
    )
    for path in made.files:
        tracker.artifact(path)
    tracker.finish("FINISHED")
    return seg_flags.DONE


def _out() -> pathlib.Path:
    out = pathlib.Path(seg_flags.given("out", "DIR"))
    for name in ("config.json", "sweep.json"):
        if (out / name).exists():  # MLflow's run there is its own
            raise config_lib.UserError(
                f"--out={out} is of a training or a sweep (it has a {name}); "
                "choose another"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise config_lib.UserError(
            f"--out={out}: cannot be written ({error.strerror}); choose another"
        ) from error
    return out


def _config(
    runs: Sequence[runs_lib.Run], out: pathlib.Path
) -> config_lib.Config:
    """The first run's, tracked as a run of its own."""
    own = {"track.run_name": out.resolve().name, "track.parent": ""}
    config = seg_flags.unredacted(runs[0].config)
    return config_lib.replace(config, own | seg_flags.overrides())


def _record(
    runs: Sequence[runs_lib.Run], config: config_lib.Config, out: pathlib.Path
) -> pathlib.Path:
    """Where the tracker's files lie: elsewhere for each set of runs.

    So a comparison that is made again replaces itself in MLflow, and no other.
    """
    places = sorted(str(run.folder.resolve()) for run in runs)
    what = repr([config.track.experiment, places])
    return out / "records" / hashlib.sha256(what.encode()).hexdigest()[:8]


if __name__ == "__main__":
    define()
    seg_flags.run(main)
