"""seg track-sync DIR

Uploads what a run without MLflow has spooled in DIR, once.
"""

from absl import flags as absl_flags

from seg import flags

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Registers the flags of this command."""
    flags.define(("track",), experiment=False)


def main(inputs: list[str]) -> None:
    """Uploads the spool; prints the runs."""
    from seg.train import tracking

    (name,) = flags.arguments(inputs, "DIR")
    runs = tracking.sync(name, FLAGS["track.uri"].value)
    for folder, run in runs.items():
        print(f"{folder}: run {run}")
