"""Measures seg against its peers: speed as ratios, within one run.

    python -m launch.bench --suite=cpu --out=cpu.json
    python -m launch.bench --suite=cpu --only=train_step_f32_vs_torch

Needs `pip install -e .[train,export,bench]`. Each row runs both sides in turn,
each in a process of its own (`duel`), and compares medians: ratio > 1 means
that seg is ahead. Other work on the machine makes every figure worse, and the
peer's more than ours where it waits by spinning: measure on an idle one.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

from absl import flags

from launch.bench import duel, suites
from seg import config as config_lib
from seg import flags as seg_flags
from seg.images import write

FLAGS = flags.FLAGS

_PACKAGES = (
    "jax", "flax", "optax", "numpy", "scipy", "scikit-image", "torch",
    "openvino", "onnxruntime",
)  # fmt: skip


def define() -> None:
    """Registers the flags."""
    flags.DEFINE_string("suite", "cpu", f"one of {', '.join(suites.SUITES)}")
    flags.DEFINE_string("only", "", "one row of the suite; empty = all")
    flags.DEFINE_integer("runs", 7, "runs of each side", lower_bound=1)
    flags.DEFINE_string("out", "", "JSON file for the rows")


def main(argv: list[str]) -> int:
    """Runs a suite, prints its table, writes its rows."""
    seg_flags.no_arguments(argv)
    if FLAGS.suite not in suites.SUITES:
        raise config_lib.ConfigError(
            config_lib.unknown("suite", FLAGS.suite, suites.SUITES)
        )
    suite = suites.SUITES[FLAGS.suite]
    if FLAGS.only:
        if FLAGS.only not in suite:
            raise config_lib.ConfigError(
                config_lib.unknown("row", FLAGS.only, suite)
            )
        suite = {FLAGS.only: suite[FLAGS.only]}
    print("| row | seg | peer | unit | ratio | peer is |")
    print("|---|---:|---:|---|---:|---|")
    rows: list[duel.Row] = []
    for name, measure in suite.items():
        rows.append(measure(name, FLAGS.runs))
        print(line(rows[-1]), flush=True)
    if FLAGS.out:
        text = json.dumps(
            {
                "machine": machine(),
                "rows": [dataclasses.asdict(r) for r in rows],
            },
            indent=1,
        )
        with write.whole(pathlib.Path(FLAGS.out)) as temporary:
            temporary.write_text(text + "\n")
    return seg_flags.DONE


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
