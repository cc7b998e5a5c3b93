"""What every test stands on: CPU, no network, a folder of its own.

- JAX runs on the CPU (JAX_PLATFORMS in the environment wins) and keeps
  compiled programs in .cache of the checkout. Nine tenths of the time went
  into compiling what runs once; the quick tests ask XLA for less of it
  (XLA_FLAGS wins), the long ones run what users run.
- Sockets reach loopback only, from the import of this file on: a test that
  needs the internet fails. Child processes get a proxy that does not exist.
- The working directory is the test's `tmp_path`; children still find seg and
  launch through PYTHONPATH.
- SEG_TEST_SEED seeds the global generators; the header shows it.
"""

import ipaddress
import os
import pathlib
import random
import socket

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = int(os.environ.get("SEG_TEST_SEED", "0"))
_COMPILE = "--xla_backend_optimization_level"
_NOWHERE = "http://127.0.0.1:9"  # the discard port: refused at once

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)
for _name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ[_name] = os.environ[_name.upper()] = _NOWHERE
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = "localhost,127.0.0.1,::1,0.0.0.0"


def _is_loopback(host: str | None) -> bool:
    if host in (None, "", "localhost", "0.0.0.0", "::", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_network() -> None:
    """Lets Python's sockets reach this machine only."""
    resolve = socket.getaddrinfo

    def only_local(call):
        def guarded(self, *args):
            address = args[-1]
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _check(address[0])
            return call(self, *args)

        return guarded

    def resolve_local(host, *args, **kwargs):
        _check(host.decode() if isinstance(host, bytes) else host)
        return resolve(host, *args, **kwargs)

    def _check(host):
        if not _is_loopback(host):
            raise PermissionError(f"a test tried to reach {host}")

    for name in ("connect", "connect_ex", "sendto"):
        call = getattr(socket.socket, name)
        setattr(socket.socket, name, only_local(call))
    socket.getaddrinfo = resolve_local


_refuse_network()


def pytest_configure(config: pytest.Config) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if "not slow" in config.option.markexpr and _COMPILE not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_COMPILE}=1".strip()


def pytest_report_header() -> str:
    return f"seed: SEG_TEST_SEED={SEED}"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_folder_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - the generator libraries fall back on


@pytest.fixture
def run(capfd):
    """run(*arguments) -> (exit status, stdout, stderr) of `seg`, in here."""
    import signal

    from absl import flags

    from seg import __main__ as command

    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            command.main([*map(str, arguments)])
        # other libraries' flags are defined once, when they are imported
        for module, own in flags.FLAGS.flags_by_module_dict().items():
            for name in [flag.name for flag in own if "seg" in module]:
                if name in flags.FLAGS:
                    delattr(flags.FLAGS, name)
        return (caught.value.code, *capfd.readouterr())

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
