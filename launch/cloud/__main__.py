"""Launches an experiment on rented GPUs or TPUs, by SkyPilot.

    python -m launch.cloud --target=tpu-v5e-8 \\
        --experiment=experiments/demo.py --train.batch_size=64 \\
        --checkpoint_bucket=gs://my-checkpoints \\
        --tracking_uri=http://mlflow.my-lab.org:5000 --dry_run

checks the experiment as the host would (with --sweep every trial), and the
task against SkyPilot's schema, without the network; prints the task, how it is
submitted and what each host runs; and, without --dry_run, submits it as a
managed job. A host that is taken away is replaced, and the run goes on from its
bucket. With --sweep it is launch.sweep that runs. Needs `pip install -e
.[cloud]`.

Exit status: 0 done; 2 bad input or configuration; else SkyPilot's.
"""

import os
import pathlib
import shlex

from absl import flags

from launch.cloud import plan, skypilot, targets
from launch.sweep import __main__ as sweep
from launch.sweep import preflight
from seg import config as config_lib
from seg import flags as seg_flags
from seg.images import write

FLAGS = flags.FLAGS

_SHARED = ("workdir", "tiles", "dry_run")  # flags of a sweep that are ours too
_TASKS = pathlib.Path("runs") / "cloud"  # where tasks are written


def define() -> None:
    """The flags of this command: its own, a sweep's, and every knob."""
    sweep.define()
    names = ", ".join(targets.TARGETS)
    flags.DEFINE_string("target", None, f"what to rent: {names}")
    flags.DEFINE_string(
        "accelerator", "", "which of the target's GPUs; empty = the cheapest"
    )
    flags.DEFINE_integer("nodes", 1, "hosts with GPUs", lower_bound=1)
    flags.DEFINE_bool(
        "yes", False, "submit without asking; else the price is shown first"
    )
    flags.DEFINE_bool("spot", True, "hosts that may be taken away, for less")
    flags.DEFINE_bool("sweep", False, "run launch.sweep, not launch.train")
    flags.DEFINE_string(
        "data_bucket", "", "bucket with the images: gs://NAME or s3://NAME"
    )
    flags.DEFINE_string(
        "checkpoint_bucket", "", "bucket that keeps the run, in its --workdir"
    )
    flags.DEFINE_string(
        "tracking_uri",
        os.environ.get("MLFLOW_TRACKING_URI", ""),
        "address of the MLflow server",
    )


def main(argv: list[str]) -> int:
    """Checks, prints, and submits as the flags say."""
    seg_flags.no_arguments(argv)
    if not FLAGS.experiment or not FLAGS.target:
        raise config_lib.ConfigError(
            "what, and where? give --experiment=FILE and --target="
            + "|".join(targets.TARGETS)
        )
    to = plan.target(FLAGS.target)
    config = seg_flags.resolve()
    _check_as_the_host(config)
    order = _order(config)
    task = plan.make(FLAGS.target, order)
    file = _TASKS / f"{order.workdir}.yaml"
    secrets = plan.secrets(os.environ)
    words = skypilot.command(file, secrets, yes=FLAGS.yes)
    version = skypilot.check(task)
    print(f"# {file}: as SkyPilot {version} wants it\n{skypilot.text(task)}")
    print(f"# submitted by\n{shlex.join(words)}\n")
    print(f"# run by {'each' if plan.hosts(to, order) > 1 else 'the'} host")
    print(f"{task['setup']}\n{task['run']}  # that is")
    print(*plan.commands(task), sep="\n")
    if FLAGS.dry_run:
        return seg_flags.DONE
    with write.whole(file) as part:
        part.write_text(skypilot.text(task))
    return skypilot.submit(words)


def _check_as_the_host(config: config_lib.Config) -> None:
    """Raises what the host would raise before it trains."""
    configs = sweep.planned()[0].samples() if FLAGS.sweep else [config]
    import jax

    jax.config.update("jax_platforms", "cpu")
    # an encoder's weights lie in the bucket
    preflight.check_all(
        config_lib.replace(each, {"model.encoder": ""}) for each in configs
    )


def _order(config: config_lib.Config) -> plan.Order:
    return plan.Order(
        config=config,
        experiment=FLAGS.experiment,
        workdir=FLAGS.workdir or seg_flags.workdir().name,
        knobs={path: _text(path) for path in seg_flags.overrides()},
        extra=tuple(_of_sweep()),
        sweep=FLAGS.sweep,
        tiles=FLAGS.tiles,
        accelerator=FLAGS.accelerator,
        nodes=FLAGS.nodes,
        spot=FLAGS.spot,
        data_bucket=FLAGS.data_bucket,
        checkpoint_bucket=FLAGS.checkpoint_bucket,
        tracking_uri=FLAGS.tracking_uri,
    )


def _text(name: str) -> str:
    """A flag's value as a command line has it."""
    value = FLAGS[name].value
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_sweep() -> list[str]:
    """The flags that only a sweep has, as they were given."""
    knobs = {path for path, _, _, _ in config_lib.leaves()}
    theirs = FLAGS.flags_by_module_dict()[sweep.define.__module__]
    names = [
        flag.name
        for flag in theirs
        if flag.present and flag.name not in {*_SHARED, *knobs}
    ]
    if names and not FLAGS.sweep:
        raise config_lib.ConfigError(f"--{names[0]} is of a sweep; add --sweep")
    return [f"--{name}={_text(name)}" for name in names]


if __name__ == "__main__":
    define()
    seg_flags.run(main)
