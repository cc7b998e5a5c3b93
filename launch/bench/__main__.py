"""Measures seg against its peers: speed as ratios, within one run.

    python -m launch.bench --suite=cpu --out=cpu.json --plot=cpu.png
    python -m launch.bench --suite=cpu --only=train_step,predict_vs_stardist
    python -m launch.bench --suite=memory --side=16384

Suites: cpu and gpu, against PyTorch, StarDist's network and scikit-image;
memory and scale, large slides against small ones. Needs `pip install -e
.[train,export,bench]`, the gpu suite a CUDA build of PyTorch instead of that of
`bench`. Each row runs both sides in turn, each in a process of its own
(`duel`), and compares medians: ratio > 1 means that seg is ahead. A row whose
sides do not compute the same fails. Other work on the machine makes every
figure worse, and the peer's more than ours where it waits by spinning: measure
on an idle one.

Exit status: 0; 2 bad flags, or every row failed; 3 some rows failed. --out is
written after each row.
"""

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

from absl import flags

from launch.bench import duel, suites, table
from seg import compiler
from seg import config as config_lib
from seg import flags as seg_flags
from seg.images import write

FLAGS = flags.FLAGS

_PACKAGES = (
    "seg", "jax", "flax", "optax", "numpy", "scipy", "scikit-image",
    "tifffile", "torch", "openvino", "onnxruntime",
)  # fmt: skip
_IDLE = 0.3  # load of a core, up to which a machine does nothing else
# Rows whose peer is not PyTorch.
_ALONE = {
    "post_share", "objects_vs_skimage", *suites.SUITES["memory"],
    *suites.SUITES["scale"],
}  # fmt: skip


def define() -> None:
    """Registers the flags."""
    flags.DEFINE_string("suite", "cpu", f"one of {', '.join(suites.SUITES)}")
    flags.DEFINE_string(
        "only", "", "rows of the suite, or how they begin; empty = all"
    )
    flags.DEFINE_integer(
        "runs",
        None,
        "runs of each side (default: 7; 3 of whole folders, 1 of slides)",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "side",
        0,
        "side of the largest slide, px (default: 32768)",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "width",
        16,
        "channels of the U-Net that the slides are measured with; 16 = 1.9 M "
        "parameters",
        lower_bound=1,
    )
    flags.DEFINE_string("mode", "default", "mode of the peer's torch.compile")
    flags.DEFINE_bool(
        "tiny", False, "all sizes tiny, on the CPU: to see that it runs"
    )
    flags.DEFINE_string("out", "", "JSON file for the rows")
    flags.DEFINE_string("plot", "", "PNG file for a chart of the ratios")


def main(argv: list[str]) -> int:
    """Runs a suite, prints its table, writes its rows."""
    seg_flags.no_arguments(argv)
    suite = _chosen()
    if FLAGS.suite == "cpu" or FLAGS.tiny:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if FLAGS.suite == "gpu" and not FLAGS.tiny:
        _need_accelerator()
    if suite.keys() - _ALONE and not importlib.util.find_spec("torch"):
        raise config_lib.UserError(
            "PyTorch, the peer, is not installed; pip install -e "
            ".[train,export,bench] --extra-index-url "
            "https://download.pytorch.org/whl/cpu"
        )
    options = suites.Options(
        FLAGS.runs, FLAGS.side, FLAGS.width, FLAGS.mode, FLAGS.tiny
    )
    measured_on = machine()
    if measured_on["busy"]:
        print(
            f"warning: {measured_on['load_before']:.1f} processes run on "
            f"{measured_on['cores']} cores already; wait until they are idle",
            file=sys.stderr,
        )
    print("\n".join(table.HEAD))
    rows: list[duel.Row] = []
    failures: dict[str, str] = {}
    for name, measure in suite.items():
        try:
            rows.append(measure(name, options))
        except duel.Failed as error:
            failures[name] = str(error)
            print(f"{name} failed: {error}", file=sys.stderr)
        else:
            print(table.line(rows[-1]), flush=True)
        if FLAGS.out:
            _write(measured_on, rows, failures)
    if FLAGS.plot and rows:
        from launch.bench import plot

        plot.ratios(rows, measured_on, pathlib.Path(FLAGS.plot))
    if failures and not rows:
        name, why = next(iter(failures.items()))
        raise config_lib.UserError(f"every row failed, as {name}: {why}")
    return seg_flags.SOME_FAILED if failures else seg_flags.DONE


def _write(
    measured_on: dict[str, Any], rows: list[duel.Row], failures: dict[str, str]
) -> None:
    """All rows so far, in place of those that were written before."""
    found = {
        "machine": measured_on,
        "rows": [dataclasses.asdict(row) for row in rows],
        "failures": failures,
    }
    with write.whole(pathlib.Path(FLAGS.out)) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def _chosen() -> dict[str, suites.Measure]:
    """The rows that the flags name."""
    if FLAGS.suite not in suites.SUITES:
        raise config_lib.ConfigError(
            config_lib.unknown("suite", FLAGS.suite, suites.SUITES)
        )
    suite = suites.SUITES[FLAGS.suite]
    wanted = FLAGS.only.replace(" ", "").split(",")
    for beginning in wanted:
        if not any(name.startswith(beginning) for name in suite):
            raise config_lib.ConfigError(
                config_lib.unknown("row", beginning, suite)
            )
    return {
        name: measure
        for name, measure in suite.items()
        if name.startswith(tuple(wanted))
    }


def _need_accelerator() -> None:
    """Asks both sides, in a process of its own, which ends with its memory."""
    ask = (
        "import jax, torch; "
        "print(jax.default_backend(), torch.cuda.is_available())"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True
    )
    found = done.stdout.split()
    if found != ["gpu", "True"]:
        what = (
            f"JAX has {found[0]}, PyTorch CUDA: {found[1]}"
            if len(found) == 2
            else (done.stderr.splitlines() or ["no answer"])[-1]
        )
        raise config_lib.UserError(
            f"the gpu suite needs a GPU for both sides ({what}); install "
            "jax[cuda12] and a CUDA build of torch on a machine with one, or "
            "give --tiny to see that it runs"
        )


def machine() -> dict[str, Any]:
    """What the figures were measured on, and whether it did other work."""
    cpu = compiler.processor()
    known = cpu.get("flags", "").split()
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "-"
    n_cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return {
        "cpu": cpu.get("model name") or platform.processor(),
        "cores": n_cores,
        "extensions": [f for f in known if f.startswith(("amx", "avx512"))],
        "load_before": load,
        "busy": load / n_cores > _IDLE,
        "python": sys.version.split()[0],
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    define()
    seg_flags.run(main)
