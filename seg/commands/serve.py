"""seg serve --model=MODEL [--model=MODEL ...]

Segments images in the browser: open the address that it prints, drop images
on the page. Images stay on this machine; nothing is fetched from the network.
Several models are a choice on the page. Ctrl-C ends it.

    seg serve
    seg serve --model=nuclei --model=runs/my_cells --port=8080
"""

import importlib.util
import os

from absl import flags as absl_flags

import seg
from seg import config as config_lib
from seg import flags

FLAGS = absl_flags.FLAGS
_NEEDS = ("fastapi", "multipart", "uvicorn")
_TOKEN = "SEG_SERVE_TOKEN"
_SHORTEST = 16  # characters of a token


def define() -> None:
    """Registers the flags of this command."""
    absl_flags.DEFINE_multi_string(
        "model",
        None,
        "name, folder or URI of a model, several times for a choice; of "
        "several with commas between, the mean (default: all that come with "
        "seg)",
    )
    absl_flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "address to listen on; any but this machine's own asks for a token, "
        f"which is printed, or is that of the variable {_TOKEN}",
    )
    absl_flags.DEFINE_integer(
        "port",
        8000,
        "port; 0 = one that is free",
        lower_bound=0,
        upper_bound=65535,
    )
    absl_flags.DEFINE_integer(
        "max_mb", 256, "largest file that is taken, MB", lower_bound=1
    )
    absl_flags.DEFINE_string(
        "engine", "auto", "what runs the network: auto, jax, onnx or openvino"
    )
    flags.define(("predict",), experiment=False, default="the model's")


def main(inputs: list[str]) -> int:
    """Serves until a signal comes; returns the exit status."""
    flags.no_arguments(inputs)
    missing = [name for name in _NEEDS if not importlib.util.find_spec(name)]
    if missing:
        raise config_lib.UserError(
            f"seg serve needs {', '.join(missing)}; pip install -e .[web]"
        )
    token = os.environ.get(_TOKEN, "")
    if token and len(token) < _SHORTEST:
        raise config_lib.ConfigError(
            f"{_TOKEN} has {len(token)} characters; give {_SHORTEST} at least"
        )
    sources = FLAGS.model or _coming_along()
    from seg.serve import server

    server.run(
        sources,
        host=FLAGS.host,
        port=FLAGS.port,
        max_mb=FLAGS.max_mb,
        token=token,
        say=_say,
        engine=FLAGS.engine,
        changes=flags.overrides(),
    )
    return flags.DONE


def _coming_along() -> list[str]:
    found = sorted(path.parent.name for path in seg.ZOO.glob("*/model.json"))
    return found or [flags.given("model", "MODEL")]


def _say(address: str) -> None:
    flags.show(f"seg is ready: open {address} in a browser (Ctrl-C ends it)")
