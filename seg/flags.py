"""Config fields as absl flags, and one way to run a command.

Every knob is a flag by its dotted path: `--model.width=64`,
`--notrain.augment`, `--predict.min_area=30,50`, `--model.width=none`.
Precedence: dataclass default, experiment file, `--flagfile`, command line.
`run` turns what goes wrong into the exit codes that every command shares.
"""

import importlib.util
import logging
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags

from seg import config as config_lib

FLAGS = flags.FLAGS

DONE, BAD_INPUT, SOME_FAILED, STOPPED = 0, 2, 3, 33


class Stopped(Exception):
    """A signal stopped the work; it is saved and the same command resumes."""


def define(parts: Iterable[str] = (), *, experiment: bool = True) -> None:
    """Registers a flag for each knob of these parts; no parts means all."""
    parts = set(parts)
    if experiment:
        flags.DEFINE_string(
            "experiment", None, "Python file with get_config() -> Config"
        )
    for path, value, kind, text in config_lib.leaves():
        if parts and path.split(".")[0] not in parts:
            continue
        if kind is bool:
            flags.DEFINE_bool(path, value, text)
        else:
            shown = ",".join(map(str, value)) if type(value) is tuple else value
            flags.DEFINE_string(path, None, f"{text} (default: {shown})")


def overrides() -> dict[str, Any]:
    """The knobs that the command line or a flagfile set, by dotted path."""
    found = {}
    for path, _, kind, _ in config_lib.leaves():
        if path in FLAGS and FLAGS[path].present:
            text = FLAGS[path].value
            found[path] = text if kind is bool else _parse(path, text, kind)
    return found


def _parse(path: str, text: str, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        if text.lower() == "none" and path != "model.norm":
            return None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_parse(path, part, item) for part in text.split(","))
    try:
        return kind(text)
    except ValueError as error:
        raise config_lib.ConfigError(
            f"--{path}={text}: not of type {kind.__name__}"
        ) from error


def load_experiment(path: str) -> config_lib.Config:
    """The Config of an experiment file.

    Raises ConfigError if there is no such file, it does not import, or it has
    no get_config().
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise config_lib.ConfigError(f"--experiment={path}: no such file")
    return experiment_module(file).get_config()


def experiment_module(file: pathlib.Path) -> types.ModuleType:
    """Imports an experiment file, wherever it lies."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise config_lib.ConfigError(f"--experiment={file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError) as error:
        raise config_lib.ConfigError(
            f"--experiment={file} does not import: {error}"
        ) from error
    if not hasattr(module, "get_config"):
        raise config_lib.ConfigError(
            f"--experiment={file}: define get_config() -> Config in it"
        )
    return module


def resolve() -> config_lib.Config:
    """The checked config of this command line."""
    config = config_lib.Config()
    if FLAGS.experiment:
        config = load_experiment(FLAGS.experiment)
    return config_lib.check(config_lib.replace(config, overrides()))


def workdir() -> pathlib.Path:
    """--workdir, or runs/NAME for an experiment file NAME.py."""
    if FLAGS.workdir:
        return pathlib.Path(FLAGS.workdir)
    if not FLAGS.experiment:
        raise config_lib.ConfigError(
            "where is the run? give --workdir=DIR, or --experiment=FILE and "
            "it is runs/FILE"
        )
    return pathlib.Path("runs") / pathlib.Path(FLAGS.experiment).stem


def show_log() -> None:
    """Shows what seg logs, and of other libraries warnings only."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("seg").setLevel(logging.INFO)


def no_arguments(argv: list[str]) -> None:
    """Raises ConfigError for what stands on the command line beside flags."""
    if argv:
        raise config_lib.ConfigError(
            f"{argv[0]!r} is no flag; write flags as --name=value"
        )


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None):
    """Parses flags, runs main(positional arguments) and exits.

    Exit status: what main returns (None is 0); 2 and one line for a UserError
    or a wrong flag; 33 when a signal stopped it.
    """
    argv = sys.argv if argv is None else argv
    try:
        rest = FLAGS(argv)
        sys.exit(main(rest[1:]) or DONE)
    except flags.UnrecognizedFlagError as error:
        message = config_lib.unknown("flag", f"{error.flagname}", list(FLAGS))
        sys.exit(fail(message.replace("; known: ", "; --help lists ")[:300]))
    except (config_lib.UserError, flags.Error) as error:
        sys.exit(fail(str(error)))
    except Stopped as error:
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(STOPPED)


def fail(message: str) -> int:
    """Prints one line on stderr; returns the exit status of bad input."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return BAD_INPUT
