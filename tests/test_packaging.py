"""What is declared is what is needed: metadata, extras, versions, scripts."""

import ast
import configparser
import importlib.metadata
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import zipfile

import pytest
from packaging import requirements
from packaging import utils as names

import seg

ROOT = pathlib.Path(__file__).resolve().parent.parent
# "formats" brings a library under the GPL, "napari" brings Qt: nobody should
# get them unasked.
NOT_IN_ALL = {"all", "cuda", "tpu", "bench", "formats", "napari"}
SCRIPTS = ("launch/venv.sh", "launch/demo.sh", "launch/test.sh", ".ci/run")
# Modules whose distribution has another name, and what brings them in.
DISTRIBUTION = {
    "PIL": "pillow",
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "skimage": "scikit-image",
    "sky": "skypilot",
    "tensorflow": "tensorflow-cpu",
}
COMES_ALONG = {"pandas", "jaxlib", "liffile"}  # with MLflow, JAX, bioio-lif


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def listed(text: str) -> list[requirements.Requirement]:
    """The requirements of one option of setup.cfg."""
    lines = [line.strip() for line in text.splitlines()]
    return [
        requirements.Requirement(line)
        for line in lines
        if line and not line.startswith("#")
    ]


def extras(setup) -> dict[str, list[requirements.Requirement]]:
    section = setup["options.extras_require"]
    return {name: listed(section[name]) for name in section}


def test_all_is_every_extra_but_those_for_few(setup):
    (itself,) = extras(setup)["all"]
    assert itself.name == setup["metadata"]["name"]
    assert itself.extras == set(extras(setup)) - NOT_IN_ALL


def test_every_library_that_seg_imports_is_declared(setup):
    declared = listed(setup["options"]["install_requires"])
    for needs in extras(setup).values():
        declared += needs
    known = {need.name for need in declared} | COMES_ALONG
    imported = set()
    for path in (ROOT / "seg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= sys.stdlib_module_names | {"seg"}
    missing = {
        name
        for name in imported
        if DISTRIBUTION.get(name, name).replace("_", "-") not in known
    }
    assert not missing


def test_the_constraints_fit_every_requirement(setup):
    text = (ROOT / "launch/constraints.txt").read_text()
    pins = {
        names.canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.M)
    }
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(pins) == len(lines)
    needs = listed(setup["options"]["install_requires"])
    for name, extra in extras(setup).items():
        needs += extra if name not in NOT_IN_ALL else []
    for need in needs:
        if need.name == "seg":  # another extra
            continue
        if need.marker is None or need.marker.evaluate():
            assert need.specifier.contains(
                pins[names.canonicalize_name(need.name)]
            ), need


def test_what_is_installed_is_what_setup_cfg_says(setup):
    found = importlib.metadata.distribution("seg")
    assert found.version == seg.__version__
    assert set(found.metadata.get_all("Provides-Extra")) == set(extras(setup))
    (command,) = found.entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("seg", "seg.__main__:main")
    assert callable(command.load())
    (manifest,) = found.entry_points.select(group="napari.manifest")
    assert (manifest.name, manifest.value) == ("seg", "seg:napari.yaml")


def test_a_wheel_holds_every_module_and_data_file_of_seg(tmp_path):
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "seg").rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix != ".md"  # is read in the checkout
    }
    copy = tmp_path / "copy"
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "seg", copy / "seg", ignore=hidden)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
         "--no-build-isolation", f"--wheel-dir={tmp_path}", str(copy)],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"seg-{seg.__version__}.dist-info/"
    assert wanted <= names
    assert {name.split("/")[0] + "/" for name in names} == {"seg/", info}
    assert info + "licenses/LICENSE" in names


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_executable_and_parses(script):
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def checkout(folder: pathlib.Path) -> pathlib.Path:
    """A checkout without .venv, of just what launch/venv.sh reads."""
    (folder / "launch").mkdir(parents=True)
    for name in ("launch/venv.sh", "launch/constraints.txt", "setup.cfg"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def make_venv(folder, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "launch/venv.sh", "train"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_no_recent_python_is_one_line_and_exit_2(tmp_path):
    run = make_venv(checkout(tmp_path / "here"), PYTHON="/bin/false")
    assert run.returncode == 2
    assert re.fullmatch(r"error: no Python 3\.11 .*\n", run.stderr)


def test_no_venv_module_is_one_line_and_exit_2(tmp_path):
    for name in ("ensurepip", "pip", "venv"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    run = make_venv(
        checkout(tmp_path / "here"),
        PYTHON=sys.executable,
        PYTHONPATH=str(tmp_path),
    )
    assert run.returncode == 2
    assert re.fullmatch(
        r"error: .*apt-get install python3-venv.*\n", run.stderr
    )


def test_tests_cannot_reach_the_network():
    with pytest.raises(PermissionError, match=r"192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(PermissionError, match=r"example\.org"):
        socket.getaddrinfo("example.org", 80)
    with (
        socket.socket(type=socket.SOCK_DGRAM) as out,
        pytest.raises(PermissionError),
    ):
        out.sendto(b"", ("192.0.2.1", 53))


def test_tests_reach_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port), timeout=5):
            server.accept()[0].close()
