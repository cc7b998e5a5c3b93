"""Claims about flags: every knob is one, precedence, one line for a mistake."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest
from absl import flags as absl_flags

from seg import config, flags

EXPERIMENT = """
from seg import config

def get_config():
    return config.replace(config.Config(), {
        "model.width": 8, "model.depth": 2, "train.seed": 1,
        "train.augment": False,
    })
"""


@pytest.fixture
def run(capsys):
    """run(main, *arguments) -> (exit status, stdout, stderr)."""
    before = set(absl_flags.FLAGS)

    def call(main, *arguments):
        flags.define()
        absl_flags.DEFINE_string("workdir", None, "folder of this run")
        try:
            with pytest.raises(SystemExit) as caught:
                flags.run(main, ["command", *arguments])
        finally:
            for name in set(absl_flags.FLAGS) - before:
                delattr(absl_flags.FLAGS, name)
        return (caught.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def resolved(run):
    """resolved(*arguments) -> the Config of a command line."""

    def call(*arguments):
        found = []
        status, _, err = run(
            lambda _: found.append(flags.resolve()), *arguments
        )
        assert (status, err) == (0, "")
        return found[0]

    return call


def refused(run, *arguments):
    """The one line that a command line is answered with."""
    status, out, err = run(lambda _: flags.resolve() and None, *arguments)
    assert status == 2 and not out
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_without_flags_the_config_is_the_default(resolved):
    assert resolved() == config.Config()


def test_every_knob_can_be_set_to_its_value_on_the_command_line(resolved):
    def written(value):
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return "unset" if value is None else str(value)

    arguments = [
        f"--{path}={written(value)}" for path, value, _, _ in config.leaves()
    ]
    assert resolved(*arguments) == config.Config()


@pytest.mark.parametrize(
    ("argument", "path", "value"),
    [
        ("--model.width=64", "model.width", 64),
        ("--model.norm=none", "model.norm", "none"),
        ("--model.norm=unset", "model.norm", None),
        ("--model.dropout=None", "model.dropout", None),
        ("--notrain.augment", "train.augment", False),
        ("--train.deterministic", "train.deterministic", True),
        ("--train.augment=false", "train.augment", False),
        ("--optim.learning_rate=3e-4", "optim.learning_rate", 3e-4),
        ("--predict.min_area=30", "predict.min_area", (30,)),
        ("--augment.scale_range=0.5,2", "augment.scale_range", (0.5, 2.0)),
        ("--classes=background,bead", "classes", ("background", "bead")),
        ("--loss.terms=dice + 0.5*focal", "loss.terms", "dice + 0.5*focal"),
        ("--data.path=", "data.path", ""),
    ],
)
def test_a_flag_sets_its_knob_alone(resolved, argument, path, value):
    wanted = config.replace(config.Config(), {path: value})
    assert resolved(argument) == wanted


def test_flagfile_beats_experiment_and_command_line_beats_flagfile(resolved):
    pathlib.Path("e.py").write_text(EXPERIMENT)
    pathlib.Path("f.flags").write_text(
        "# what this machine needs\n--model.depth=3\n--train.seed=2\n"
        "--train.augment\n\n--flagfile=more.flags\n"
    )
    pathlib.Path("more.flags").write_text("--train.keep=7\n")
    wanted = config.replace(
        config.Config(),
        {"model.width": 8, "model.depth": 3, "train.seed": 3, "train.keep": 7},
    )
    parts = ["--experiment=e.py", "--flagfile=f.flags", "--train.seed=3"]
    assert resolved(*parts) == wanted
    assert resolved(*parts[::-1]) == wanted
    parts[1:2] = ["--flagfile", "f.flags"]
    assert resolved(*parts[::-1][:1], *parts[1:]) != wanted  # no experiment
    assert resolved("--train.seed=3", *parts[:3]) == wanted


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--model.widht=3", "did you mean model.width?"),
        ("--notrain.augmnt", "did you mean train.augment"),
        ("--seed=3", "did you mean synthetic.seed or train.seed?"),
        ("--epochs=3", "did you mean train.epochs?"),
        ("--workdri=x", "did you mean workdir?"),
        ("--qqqqqqqq", "unknown flag 'qqqqqqqq'; see --help"),
        ("--model.width=wide", "--model.width=wide: not of type int"),
        ("--model.width=3.5", "--model.width=3.5: not of type int"),
        ("--model.width=", "--model.width=: not of type int"),
        ("--optim.ema=high", "--optim.ema=high: not of type float"),
        ("--optim.ema=nan", "optim.ema=nan; it must be finite"),
        ("--predict.min_area=3,x", "--predict.min_area=x: not of type int"),
        ("--augment.scale_range=1,2,3", "augment.scale_range"),
        ("--train.augment=maybe", "--train.augment=maybe: it is true or"),
        ("--model.width", "Missing value for flag --model.width"),
        ("--flagfile=absent", "absent"),
        ("--flagfile=.", "Is a directory"),
        ("--flagfile=wrong.flags", "did you mean model.width?"),
        ("--flagfile=binary.flags", "decode"),
        ("--predict.tta=3", "predict.tta=3; choose one of 1, 2, 4, 8"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, argument, text):
    pathlib.Path("wrong.flags").write_text("--model.widht=3\n")
    pathlib.Path("binary.flags").write_bytes(bytes(range(256)))
    assert text in refused(run, argument)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (None, "no such file"),
        ("import absent", "line 1: ModuleNotFoundError: No module named"),
        ("get_config = (", "SyntaxError"),
        ("x = 1", "define get_config() -> Config"),
        ("\ndef get_config(): pass", "get_config() gives None"),
        ("def get_config():\n return 1 / 0", "line 2: ZeroDivisionError"),
        (
            "from seg import config\n"
            "def get_config():\n"
            "    return config.Config(model=config.Model(widht=3))",
            "line 3: TypeError: Model.__init__() got an unexpected keyword "
            "argument 'widht'",
        ),
        (
            "from seg import config\n"
            "def get_config():\n"
            "    return config.replace(config.Config(), {'train.sede': 1})",
            "did you mean train.seed?",
        ),
        (
            "from seg import config\n"
            "def get_config():\n"
            "    return config.Config(data=config.Data(tile=0))",
            "data.tile=0; it must be positive",
        ),
    ],
)
def test_an_experiment_that_is_broken_is_one_line(run, source, text):
    if source is not None:
        pathlib.Path("e.py").write_text(source)
    assert text in refused(run, "--experiment=e.py")


def test_an_experiment_is_a_python_file(run):
    pathlib.Path("e.yaml").write_text("model: unet")
    assert "not a Python file" in refused(run, "--experiment=e.yaml")


def test_an_experiment_with_values_of_the_wrong_type_is_refused(run):
    pathlib.Path("e.py").write_text(
        "from seg import config\n"
        "def get_config():\n"
        "    return config.Config(train=config.Train(epochs='3'))"
    )
    assert "train.epochs: '3' is not of type int" in refused(
        run, "--experiment=e.py"
    )


def test_the_workdir_is_named_or_that_of_the_experiment(run):
    def told(*arguments):
        found = []
        status, _, err = run(
            lambda _: found.append(flags.workdir()), *arguments
        )
        return found[0] if not status else err

    assert told("--experiment=a/b.py") == pathlib.Path("runs/b")
    variant = "--experiment=a/b.py:as_published"
    assert told(variant) == pathlib.Path("runs/b-as_published")
    both = "--experiment=a/b.py", "--workdir=elsewhere"
    assert told(*both) == pathlib.Path("elsewhere")
    assert "give --experiment=FILE" in told()
    # every run has a config.json: two of them must not meet in runs/config
    assert "give --workdir=DIR" in told("--experiment=runs/b/config.json")
    both = "--experiment=runs/b/config.json", "--workdir=c"
    assert told(*both) == pathlib.Path("c")


def test_the_config_of_a_run_is_an_experiment(resolved, run):
    wanted = resolved("--model.width=8", "--classes=a,b", "--notrain.augment")
    pathlib.Path("config.json").write_text(config.to_json(wanted))
    assert resolved("--experiment=config.json") == wanted
    # a password was not kept with the run, so its server is not known
    secret = config.replace(wanted, {"track.uri": "https://***@host/"})
    pathlib.Path("config.json").write_text(config.to_json(secret))
    assert resolved("--experiment=config.json") == wanted
    pathlib.Path("config.json").write_text("{")
    assert "not JSON" in refused(run, "--experiment=config.json")


def test_what_is_no_flag_is_refused_where_none_is_wanted(run):
    status, _, err = run(flags.no_arguments, "stray", "--train.seed=1")
    assert status == 2 and "'stray' is no flag" in err
    assert run(flags.no_arguments)[0] == 0


def _stopped(_):
    raise flags.Stopped("SIGTERM; saved")


def _mendable(_):
    raise config.UserError("a\nlong story")


def _full(_):
    with open("/dev/full", "w") as file:
        file.write("x")


def _broken(_):
    pathlib.Path("absent").read_text()


def _interrupted(_):
    raise KeyboardInterrupt


def test_exit_statuses(run):
    assert run(lambda _: None) == (0, "", "")
    assert run(lambda _: 3) == (3, "", "")
    assert run(_mendable) == (2, "", "error: a long story\n")
    assert run(_stopped) == (33, "", "stopped: SIGTERM; saved\n")
    status, out, err = run(_full)
    assert (status, out) == (2, "")
    assert "No space left on device" in err and err.count("\n") == 1
    with pytest.raises(FileNotFoundError):  # a mistake of seg itself
        run(_broken)
    status, out, err = run(_interrupted)
    assert (status, out) == (33, "") and err.count("\n") == 1


@pytest.mark.parametrize("asked", ["--help", "--helpfull", "-h", "--helpshort"])
def test_help_lists_every_knob_with_its_default(run, asked):
    status, out, err = run(flags.no_arguments, asked, "--model.widht=3")
    assert (status, err) == (0, "")
    assert out.startswith(f"{flags.__doc__.splitlines()[0]}\n")
    text = " ".join(out.split())
    for path, value, _, about in config.leaves():
        assert f"--{path}: {about} (default: " in text
        if isinstance(value, int | float):
            shown = str(value).lower()
            assert f"--{path}: {about} (default: {shown})" in text
    assert "--experiment: " in text and "--flagfile: " in text
    assert max(map(len, out.splitlines())) <= 80


def test_help_behind_a_double_dash_is_an_argument(run):
    status, _, err = run(flags.no_arguments, "--", "--help")
    assert status == 2 and "'--help' is no flag" in err


@pytest.mark.parametrize("command", ["train", "evaluate", "prepare"])
def test_the_help_of_a_command_loads_nothing_heavy(command):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['{command}', '--help']\n"
        f"try: runpy.run_module('launch.{command}', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'jax', 'tensorflow', 'mlflow', 'flax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert f"python -m launch.{command} --" in result.stdout
    own = "--pack: " if command == "prepare" else "--workdir: "
    assert own in result.stdout and "--train.epochs: " in result.stdout


def test_help_to_a_pager_that_is_left_is_no_failure():
    result = subprocess.run(
        f"{sys.executable} -m launch.train --help | head -1; "
        "exit ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_reader_who_has_seen_enough_ends_a_launch_quietly():
    program = "from seg import flags\ndef main(_):\n"
    program += "    for i in range(100_000): print(i)\nflags.run(main)"
    result = subprocess.run(
        f"{sys.executable} -c '{program}' | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    found = result.returncode, result.stdout, result.stderr
    assert found == (141, "0\n", "")


def test_ctrl_c_before_the_training_is_one_line():
    pathlib.Path("slow.py").write_text(
        "import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)"
    )
    # a test run in the background of a shell ignores Ctrl-C
    heed = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    train = ["-m", "launch.train", "--experiment=slow.py"]
    process = subprocess.Popen(
        [sys.executable, "-c", heed, *train],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not pathlib.Path("here").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 33
    assert err.startswith("stopped") and err.count("\n") == 1


def test_an_experiment_file_may_hold_several(run, resolved, tmp_path):
    file = tmp_path / "two.py"
    file.write_text(
        "from seg import config\n"
        "def get_config(): return config.Config()\n"
        "def narrow():\n"
        "    return config.Config(model=config.Model(width=4))\n"
    )
    assert resolved(f"--experiment={file}").model.width is None
    assert resolved(f"--experiment={file}:narrow").model.width == 4
    found = refused(run, f"--experiment={file}:wide")
    assert "define wide() -> Config" in found


def test_a_path_of_images_is_not_ignored_where_images_are_drawn(run, resolved):
    found = refused(run, "--data.path=mine")
    assert "draws its images" in found and "--data.layout=folders" in found
    both = "--data.path=mine", "--data.layout=folders"
    assert resolved(*both).data.path == "mine"
