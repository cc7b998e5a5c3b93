"""Graphs that were made of models, kept between processes.

Making one takes seconds and JAX. They lie in ~/.cache/seg/graphs, so a model's
folder is only read: it may belong to somebody else, or to the package.
"""

import contextlib
import hashlib
import pathlib
from collections.abc import Callable

import seg
from seg import compiler
from seg.images import write

_VERSION = 1  # of how graphs are made, between two versions of seg
_N_KEPT = 32
_HASH = 32  # bytes of sha256 before the content


def get(model: str, make: Callable[[], bytes]) -> bytes:
    """The graph of a model, by its digest; made where there is none yet.

    Nothing is kept where the folder cannot be written.
    """
    folder = compiler.cache_folder("graphs")
    if folder is None:
        return make()
    path = folder / f"{model}-{seg.__version__}-{_VERSION}.onnx"
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content[_HASH:]).digest() == content[:_HASH]:
        with contextlib.suppress(OSError):  # it may be another's
            path.touch()
        return content[_HASH:]
    content = make()
    with contextlib.suppress(OSError, write.WriteError):
        with write.whole(path) as part:
            part.write_bytes(hashlib.sha256(content).digest() + content)
        _prune(folder)
    return content


def _prune(folder: pathlib.Path) -> None:
    """Removes what nobody used for long."""
    files = sorted(folder.iterdir(), key=lambda at: at.stat().st_mtime)
    for old in files[:-_N_KEPT]:
        old.unlink()
