"""Trains an experiment: python -m launch.train --experiment=FILE --workdir=DIR.

Run it again and it resumes; when the training is complete it says so. Every
knob is a flag (`--help` lists them): `--optim.learning_rate=3e-4`.

Exit status: 0 done; 2 bad input or configuration; 33 stopped by a signal, with
all saved: the same command resumes.
"""

import pathlib

from absl import flags

from seg import compiler
from seg import config as config_lib
from seg import flags as seg_flags
from seg.train import stop

# Everything heavier is imported once the flags are right.


def define() -> None:
    """The flags of this command."""
    seg_flags.define()
    flags.DEFINE_string("workdir", None, "folder of this run")
    flags.DEFINE_string(
        "tiles", "", "a pack of launch.prepare --pack, in place of data.dir"
    )


def main(argv: list[str]) -> int:
    """Trains as the flags say."""
    seg_flags.no_arguments(argv)
    seg_flags.show_log()
    config = seg_flags.resolve()
    workdir = seg_flags.workdir()
    with stop.Signals() as signals:
        try:
            return _train(config, workdir, signals)
        except stop.Interrupted as error:
            raise seg_flags.Stopped(
                f"{error}; saved in {workdir}, the same command resumes"
            ) from error


def _train(
    config: config_lib.Config, workdir: pathlib.Path, signals: stop.Signals
) -> int:
    import jax

    from seg.train import mesh

    compiler.configure(config.train.deterministic)
    mesh.start_distributed(config.mesh.distributed)
    from seg.train import run, workdirs

    # Of several processes, the first one speaks for all.
    say = (lambda text: None) if jax.process_index() else print
    if workdirs.is_done(workdir) and not config.train.resume_changed:
        workdirs.check_same(config, workdir)
        say(f"{workdir}: the training is complete, nothing to do")
        return seg_flags.DONE
    course = run.train(
        config, workdir, tiles=flags.FLAGS.tiles, signals=signals
    )
    if not (workdir / "bundle").is_dir():
        say(f"{config.train.monitor} was never a number: there is no model")
        return seg_flags.DONE
    score = ""
    if course.best is not None:
        score = f"{config.train.monitor} {course.best:.4f} at "
    say(
        f"{score}step {course.best_step}, "
        f"{course.seconds / 60:.1f} min; model in {workdir / 'bundle'}"
    )
    return seg_flags.DONE


if __name__ == "__main__":
    compiler.restart()
    define()
    seg_flags.run(main)
