"""The installed command.

    seg predict INPUT... --out=DIR                  images -> objects, tables
    seg serve                                       the same, in the browser
    seg train DIR                                   labelled images -> a model
    seg evaluate DIR --model=MODEL                  scores on labelled images
    seg measure LABELS... --images=DIR --out=DIR    objects -> a table
    seg convert INPUT... --formats=... --out=DIR    objects -> other programs
    seg info MODEL                                  what a model is
    seg export MODEL                                one portable program
    seg verify DIR                                  all defects of a data set
    seg track-sync DIR                              upload a spool to MLflow

`seg COMMAND --help` lists its flags. MODEL is a name in the zoo (nuclei, the
default, or cells), a bundle's folder, a workdir of training, or an MLflow URI.
Exit status: 0 done; 2 bad input or configuration, or every input failed; 3
finished, but some inputs failed; 33 stopped by a signal: what is finished is
saved, the same command goes on.
"""

import importlib
import inspect
import sys
from collections.abc import Sequence

import seg
from seg import compiler, config, flags

COMMANDS = (
    "predict", "serve", "train", "evaluate", "measure", "convert", "info",
    "export", "verify", "track-sync",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command, a module of `seg.commands`; exits with its status."""
    if argv is None and sys.argv[1:2] == ["train"]:
        compiler.restart()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        flags.show(inspect.cleandoc(__doc__))
        sys.exit(flags.DONE if argv else flags.BAD_INPUT)
    if argv[0] == "--version":
        flags.show(seg.__version__)
        sys.exit(flags.DONE)
    name = argv[0]
    if name not in COMMANDS:
        sys.exit(flags.fail(config.unknown("command", name, COMMANDS)))
    module = f"seg.commands.{name.replace('-', '_')}"
    command = importlib.import_module(module)
    command.define()
    flags.show_log()
    flags.run(command.main, [f"seg {name}", *argv[1:]])


if __name__ == "__main__":
    main()
