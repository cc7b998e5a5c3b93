"""Config fields as absl flags, and one way to run a command.

Every knob is a flag by its dotted path: `--model.width=64`,
`--notrain.augment`, `--predict.min_area=30,50`, `--model.width=unset`.
Precedence: dataclass default, experiment file, `--flagfile`, command line.
`run` turns what goes wrong into the exit codes that every command shares.
"""

import errno
import importlib.util
import inspect
import itertools
import logging
import os
import pathlib
import select
import sys
import textwrap
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from absl import flags

from seg import config as config_lib

FLAGS = flags.FLAGS

DONE, BAD_INPUT, SOME_FAILED, STOPPED = 0, 2, 3, 33
_CUT_SHORT = 141  # as a shell says of what SIGPIPE has ended

_HELP = {"-h", "-?", "-help", "--help", "--helpshort", "--helpfull"}

# what the disk may answer at any time
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)


class Stopped(Exception):
    """A signal stopped the work; it is saved and the same command resumes."""


def define(
    parts: Iterable[str] = (), *, experiment: bool = True, default: str = ""
) -> None:
    """Registers a flag for each knob of these parts; no parts means all.

    `default` is what the help says of defaults, if not the knobs' own.
    """
    parts = set(parts)
    if experiment:
        flags.DEFINE_string(
            "experiment",
            None,
            "Python file with get_config() -> Config (FILE.py:NAME takes "
            "another function of it), or a run's config.json",
        )
    for path, value, kind, text in config_lib.leaves():
        if parts and path.split(".")[0] not in parts:
            continue
        text = f"{text} (default: {default or _shown(value)})"
        if kind is bool:
            flags.DEFINE_bool(path, value, text)
        else:
            flags.DEFINE_string(path, None, text)


def _shown(value: Any) -> str:
    """A knob's value as it is written on a command line."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "empty"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "empty"


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
        unset = {"unset"} if path == "model.norm" else {"unset", "none"}
        if text.lower() in unset:
            return None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        parts = text.split(",") if text.strip() else []
        return tuple(_parse(path, part.strip(), item) for part in parts)
    try:
        return kind(text)
    except ValueError as error:
        raise config_lib.ConfigError(
            f"--{path}={text}: not of type {kind.__name__}"
        ) from error


def load_experiment(path: str) -> config_lib.Config:
    """The Config of an experiment file, or of a workdir's config.json.

    FILE.py:NAME takes NAME() in place of get_config().

    Raises ConfigError if there is no such file, it does not import, or it has
    no such function.
    """
    file, name = named(path)
    if not file.is_file():
        raise config_lib.ConfigError(f"--experiment={path}: no such file")
    if file.suffix == ".json":
        return unredacted(config_lib.from_json(file.read_text()))
    module = experiment_module(file)
    if not callable(getattr(module, name, None)):
        raise config_lib.ConfigError(
            f"--experiment={path}: define {name}() -> Config in it"
        )
    try:
        config = getattr(module, name)()
        if not isinstance(config, config_lib.Config):
            raise TypeError(f"{name}() gives {config!r:.50}, no Config")
        # dataclasses take values of any type
        return config_lib.replace(
            config_lib.Config(), config_lib.to_flat(config)
        )
    except Exception as error:  # it is the user's code
        raise _broken(file, error) from error


def unredacted(config: config_lib.Config) -> config_lib.Config:
    """The config, without a URI whose password was kept nowhere."""
    if "***" in config.track.uri:
        return config_lib.replace(config, {"track.uri": ""})
    return config


def experiment_module(file: pathlib.Path) -> types.ModuleType:
    """Imports an experiment file, wherever it lies."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise config_lib.ConfigError(f"--experiment={file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's code
        raise _broken(file, error) from error
    return module


def named(path: str) -> tuple[pathlib.Path, str]:
    """The file of an experiment, and which of its functions makes it."""
    file, colon, name = path.rpartition(":")
    if not colon or not name.isidentifier():
        return pathlib.Path(path), "get_config"
    return pathlib.Path(file), name


def _broken(file: pathlib.Path, error: Exception) -> config_lib.ConfigError:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(file.absolute())
    ]
    at = f", line {lines[-1]}" if lines else ""
    kind = type(error).__name__
    what = "" if isinstance(error, config_lib.UserError) else f"{kind}: "
    return config_lib.ConfigError(f"--experiment={file}{at}: {what}{error}")


def resolve() -> config_lib.Config:
    """The checked config of this command line."""
    config = config_lib.Config()
    if FLAGS.experiment:
        config = load_experiment(FLAGS.experiment)
    config = config_lib.check(config_lib.replace(config, overrides()))
    data = config.data
    if data.path and data.layout == "synthetic":
        raise config_lib.ConfigError(
            f"--data.path={data.path}: data.layout=synthetic draws its images; "
            "say how yours lie (--data.layout=folders), or take an experiment "
            "that does (--experiment=experiments/folders.py)"
        )
    return config


def workdir() -> pathlib.Path:
    """--workdir, or runs/NAME for an experiment file NAME.py."""
    if FLAGS.workdir:
        return pathlib.Path(FLAGS.workdir)
    if not FLAGS.experiment:
        raise config_lib.ConfigError(
            "which experiment? give --experiment=FILE, and the run is in "
            "runs/FILE, or --workdir=DIR"
        )
    if FLAGS.experiment.endswith(".json"):
        raise config_lib.ConfigError(
            f"--experiment={FLAGS.experiment} repeats a run; give --workdir=DIR"
        )
    file, name = named(FLAGS.experiment)
    variant = "" if name == "get_config" else f"-{name}"
    return pathlib.Path("runs") / f"{file.stem}{variant}"


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


def arguments(argv: list[str], *names: str) -> list[str]:
    """What stands beside the flags; ConfigError if not one for each name."""
    if len(argv) != len(names):
        raise config_lib.ConfigError(
            f"{len(argv)} arguments; give {' '.join(names)}"
        )
    return argv


def given(flag: str, value: str) -> str:
    """The value of a flag; ConfigError, saying --flag=VALUE, without it."""
    if not FLAGS[flag].value:
        raise config_lib.ConfigError(f"no --{flag}; give --{flag}={value}")
    return FLAGS[flag].value


def run(
    main: Callable[[list[str]], int | None],
    argv: list[str] | None = None,
    about: str = "",
) -> typing.NoReturn:
    """Parses flags, runs main(positional arguments) and exits.

    Exit status: what main returns (None is 0); 2 and one line for a UserError,
    a wrong flag, or a disk that refuses; 33 when a signal stopped it; 141 when
    nobody reads what it still has to print, as `head` does. `about` is what
    --help says before the flags, by default the docstring of main's module.
    """
    status: str | int | None = _CUT_SHORT
    try:
        try:
            status = _status(main, sys.argv if argv is None else argv, about)
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():  # then it was another pipe
            raise
    sys.exit(status)


def _status(
    main: Callable[[list[str]], int | None], argv: list[str], about: str
) -> int:
    try:
        asked = set(itertools.takewhile(lambda word: word != "--", argv[1:]))
        if asked & _HELP:
            about = about or inspect.cleandoc(main.__globals__["__doc__"] or "")
            show(about, *_help(main.__module__))
            return DONE
        return main(_parsed(argv)) or DONE
    except config_lib.UserError as error:
        return fail(str(error))
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror}; make room or choose another")
    except Stopped as error:
        print(f"stopped: {error}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print(
            "stopped by Ctrl-C; the same command starts again", file=sys.stderr
        )
        return STOPPED


def _nobody_reads() -> bool:
    """Whether stdout is a broken pipe; if so, it is let go."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # errors are told unasked
    is_broken = bool(poll.poll(0))
    if is_broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_broken


def fail(message: str) -> int:
    """Prints one line on stderr; returns the exit status of bad input."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return BAD_INPUT


def _parsed(argv: list[str]) -> list[str]:
    """Sets the flags; the arguments beside them."""
    try:
        return FLAGS(_files_first(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        near = config_lib.nearest(error.flagname, FLAGS)
        tail = f"did you mean {' or '.join(near)}?" if near else "see --help"
        raise config_lib.ConfigError(
            f"unknown flag {error.flagname!r}; {tail}"
        ) from error
    except (flags.Error, UnicodeDecodeError) as error:
        text = str(error).removeprefix("ERROR:: ")
        if "Non-boolean argument" in text:
            text = text.partition(": ")[0] + ": it is true or false"
        raise config_lib.ConfigError(text) from error


def _files_first(argv: list[str]) -> list[str]:
    """The arguments with flag files in front: what stands later wins."""
    files, rest = argv[:1], []
    words = iter(argv[1:])
    for word in words:
        name, equals, _ = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif name in ("-flagfile", "--flagfile"):
            files += [word] if equals else [word, *itertools.islice(words, 1)]
        else:
            rest.append(word)
    return files + rest


def _help(module: str) -> Iterator[str]:
    """Lines about a module's flags and the knobs; other libraries' are left."""
    if module == "__main__":
        module = sys.argv[0]  # as absl names it
    knobs = {path for path, _, _, _ in config_lib.leaves()}
    defined = FLAGS.flags_by_module_dict()
    own = [name for name in defined if name.startswith(("seg.", "launch."))]
    own = [name for name in own if name not in (module, __name__)]
    shown = [
        flag
        for name in (module, *own, __name__)
        for flag in defined.get(name, ())
    ]
    shown = [flag for flag in shown if flag.name not in knobs]
    yield ""
    for flag in shown:
        text = " ".join(flag.help.split())
        if flag.default is not None:
            text += f" (default: {_shown(flag.default)})"
        yield _line(flag.name, text)
    yield _line("flagfile", "a file of flags, one a line; those beside it win")
    part = ""
    for path, _, _, _ in config_lib.leaves():
        if path in FLAGS:
            if path.split(".")[0] != part:
                part = path.split(".")[0]
                yield ""
            yield _line(path, FLAGS[path].help)


def show(*lines: str) -> None:
    """Prints lines, to whom may have seen enough, as `head` has."""
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(name: str, text: str) -> str:
    return textwrap.fill(
        f"--{name}: {text}", 79, initial_indent="  ", subsequent_indent="      "
    )
