"""Claims about the command: its address, its errors, its end."""

import contextlib
import importlib.util
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from absl import flags as absl_flags

import seg
from seg import __main__ as command
from seg.serve import choices, guard
from tests.serve.conftest import draw, png

SERVE = [sys.executable, "-m", "seg", "serve"]


@contextlib.contextmanager
def started(*arguments):
    """Yields (process, address) of a server that says it is ready."""
    process = subprocess.Popen(
        [*SERVE, "--port=0", "--engine=jax", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        (address,) = re.findall(r"open (http://\S+) in a browser", line)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def test_it_says_its_address_answers_and_ends_cleanly(bundles):
    with started(f"--model={bundles[0]}") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=address, timeout=60) as client:
            answer = client.post("/api/images", content=png(draw()))
            assert answer.status_code == 201
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")


def test_it_ends_while_the_network_runs_and_wants_its_token(bundles):
    model = f"--model={bundles[0]}"
    with started(model, "--host=0.0.0.0") as (process, address):
        token = address.partition("?token=")[2]
        assert len(token) >= 32
        port = int(re.search(r":(\d+)/", address)[1])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/").status_code == 401
            assert client.get(f"/?token={token}").status_code == 303
            assert client.get("/").status_code == 200
        large = png(np.zeros((4096, 4096), np.uint8))
        with socket.create_connection(("127.0.0.1", port)) as link:
            head = "POST /api/images HTTP/1.1\r\nHost: localhost\r\n"
            head += f"Authorization: Bearer {token}\r\n"
            head += f"Content-Length: {len(large)}\r\n\r\n"
            link.sendall(head.encode() + large)
            time.sleep(2)
            process.send_signal(signal.SIGTERM)
            assert b" 503 " in link.recv(100)
            _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def refused(capsys, *arguments):
    """The one line of a command that ends with status 2."""
    before = set(absl_flags.FLAGS)
    with pytest.raises(SystemExit) as caught:
        command.main(["serve", *arguments])
    for name in set(absl_flags.FLAGS) - before:
        delattr(absl_flags.FLAGS, name)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_a_port_in_use_is_one_line(bundles, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = refused(capsys, f"--model={bundles[0]}", f"--port={port}")
    assert f"port {port} of 127.0.0.1 is in use" in text


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--model=nowhere",), "no model 'nowhere'"),
        (("--model=MODEL", "--port=70000"), "not an integer in the range"),
        (("--model=MODEL", "--host=192.0.2.1"), "cannot listen"),
        (("--model=MODEL", "--host=no.such.host"), "cannot listen"),
        (("--model=MODEL", "--max_mb=0"), "max_mb"),
        (("--model=MODEL", "--predict.tta=3"), "choose one of"),
        (("MODEL",), "is no flag"),
    ],
)
def test_bad_input_is_one_line(bundles, capsys, arguments, says):
    arguments = [a.replace("MODEL", bundles[0]) for a in arguments]
    assert says in refused(capsys, *arguments)


def test_without_a_model_anywhere_one_is_asked_for(
    bundles, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(seg, "ZOO", tmp_path)
    assert "give --model=MODEL" in refused(capsys)


def test_without_the_extra_it_says_what_to_install(
    bundles, capsys, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "fastapi" else find(name, *more),
    )
    text = refused(capsys, f"--model={bundles[0]}")
    assert "needs fastapi; pip install -e .[web]" in text


def test_a_short_token_is_refused(bundles, capsys, monkeypatch):
    monkeypatch.setenv("SEG_SERVE_TOKEN", "short")
    assert "5 characters" in refused(capsys, f"--model={bundles[0]}")


def test_choices_have_names_that_differ(bundles, tmp_path):
    names = choices.find([*bundles, ",".join(bundles[:1] * 2)]).keys()
    assert [*names] == ["nuclei", "beads", "nuclei, nuclei"]
    twice = choices.find([bundles[0], bundles[0] + "/"]).keys()
    assert [*twice] == [bundles[0], bundles[0] + "/"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_is_known(host):
    assert guard.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_all_else_is_not_loopback(host):
    assert not guard.is_loopback(host)


def test_nothing_heavy_is_loaded_for_the_page(bundles):
    program = (
        "import sys; from seg.serve import server\n"
        "print('loaded:', *sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    loaded = set(run.stdout.rpartition("loaded:")[2].split())
    assert "fastapi" in loaded, run.stderr
    assert not {"jax", "tensorflow", "mlflow", "matplotlib"} & loaded
