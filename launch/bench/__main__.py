"""Measures seg against its peers: speed as ratios, within one run.

    python -m launch.bench --suite=cpu --out=cpu.json --plot=cpu.png
    python -m launch.bench --suite=cpu --only=train_step_f32_vs_torch
    python -m launch.bench --suite=memory --side=16384

Suites: cpu and gpu, against PyTorch, StarDist's network and scikit-image;
memory and scale, large slides against small ones. Needs `pip install -e
.[train,export,bench]`, the gpu suite a CUDA build of PyTorch too. Each row runs
both sides in turn, each in a process of its own (`duel`), and compares
medians: ratio > 1 means that seg is ahead. Other work on the machine makes
every figure worse, and the peer's more than ours where it waits by spinning:
measure on an idle one.
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

from absl import flags

from launch.bench import duel, suites
from seg import config as config_lib
from seg import flags as seg_flags
from seg.images import write

FLAGS = flags.FLAGS

_PACKAGES = (
    "seg", "jax", "flax", "optax", "numpy", "scipy", "scikit-image",
    "tifffile", "torch", "openvino", "onnxruntime",
)  # fmt: skip
# Rows whose peer is not PyTorch.
_ALONE = {
    "post_share", "objects_vs_skimage", *suites.SUITES["memory"],
    *suites.SUITES["scale"],
}  # fmt: skip


def define() -> None:
    """Registers the flags."""
    flags.DEFINE_string("suite", "cpu", f"one of {', '.join(suites.SUITES)}")
    flags.DEFINE_string("only", "", "one row of the suite; empty = all")
    flags.DEFINE_integer(
        "runs",
        None,
        "runs of each side (default: 7; 3 of whole folders, 1 of slides)",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "side",
        0,
        "side of the largest slide, px (default: 32768 for memory, 16384 for "
        "scale)",
        lower_bound=0,
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
    if FLAGS.suite == "gpu" and not FLAGS.tiny:
        _need_accelerator()
    if suite.keys() - _ALONE and not importlib.util.find_spec("torch"):
        raise config_lib.UserError(
            "PyTorch, the peer, is not installed; pip install -e "
            ".[train,export,bench] --extra-index-url "
            "https://download.pytorch.org/whl/cpu"
        )
    options = suites.Options(FLAGS.runs, FLAGS.side, FLAGS.mode, FLAGS.tiny)
    measured_on = machine()
    print("| row | seg | peer | unit | ratio | peer is |")
    print("|---|---:|---:|---|---:|---|")
    rows: list[duel.Row] = []
    for name, measure in suite.items():
        rows.append(measure(name, options))
        print(line(rows[-1]), flush=True)
    if FLAGS.out:
        found = [dataclasses.asdict(row) for row in rows]
        text = json.dumps({"machine": measured_on, "rows": found}, indent=1)
        with write.whole(pathlib.Path(FLAGS.out)) as temporary:
            temporary.write_text(text + "\n")
    if FLAGS.plot:
        from launch.bench import plot

        plot.ratios(rows, measured_on, pathlib.Path(FLAGS.plot))
    return seg_flags.DONE


def _chosen() -> dict[str, suites.Measure]:
    """The rows that the flags name."""
    if FLAGS.suite not in suites.SUITES:
        raise config_lib.ConfigError(
            config_lib.unknown("suite", FLAGS.suite, suites.SUITES)
        )
    suite = suites.SUITES[FLAGS.suite]
    if not FLAGS.only:
        return suite
    if FLAGS.only not in suite:
        raise config_lib.ConfigError(
            config_lib.unknown("row", FLAGS.only, suite)
        )
    return {FLAGS.only: suite[FLAGS.only]}


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


def line(row: duel.Row) -> str:
    """A row of the table in Markdown."""
    program = row.about["peer"].get("program", "")
    threads = row.about["peer"].get("threads", "")
    return (
        f"| {row.name} | {row.ours:.3g} | {row.peer:.3g} | {row.unit} "
        f"| **{row.ratio:.2f}** | {program}, {threads} threads |"
    )


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpu = pathlib.Path("/proc/cpuinfo")
    text = cpu.read_text() if cpu.is_file() else ""
    model = text.partition("model name")[2].partition("\n")[0].lstrip("\t: ")
    known = text.partition("flags")[2].partition("\n")[0].split()
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "-"
    return {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "extensions": [f for f in known if f.startswith(("amx", "avx512"))],
        "load_before": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    define()
    seg_flags.run(main)
