"""What a checkpoint's folder must hold, byte by byte.

`manifest.json` is `{"sha256": digest of the body, "body": {...}}`; the body
has what the caller says plus the size and sha256 of every other file in the
folder. Written last, it is the mark of a whole checkpoint.
"""

import hashlib
import json
import os
import pathlib
import time
from typing import Any

_FORMAT = 1
_NAME = "manifest.json"


class Damaged(Exception):
    """A checkpoint that must not be restored, and why."""


def write(folder: pathlib.Path, **body: Any) -> None:
    """Writes the manifest of all that is in the folder, through to the disk."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": _sha(path)}
            flush(path)
    body = {"format": _FORMAT, **body, "files": files, "time": time.time()}
    body = json.loads(json.dumps(body))  # keys become text, as when read
    path = folder / _NAME
    text = {"sha256": _digest(body), "body": body}
    path.write_text(json.dumps(text, indent=1) + "\n")
    flush(path)
    flush(folder)


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The body of a manifest; raises Damaged when it is not as written."""
    try:
        text = json.loads((folder / _NAME).read_text())
        whole = text["sha256"] == _digest(text["body"])
    except FileNotFoundError as error:
        raise Damaged(f"{_NAME} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{_NAME} cannot be read: {error}") from error
    if not whole:
        raise Damaged(f"{_NAME} differs from its own sha256")
    if text["body"]["format"] != _FORMAT:
        raise Damaged(f"format {text['body']['format']} is not {_FORMAT}")
    return text["body"]


def verified(folder: pathlib.Path) -> dict[str, Any]:
    """As `read`, after comparing every file with the manifest."""
    body = read(folder)
    for name, entry in body["files"].items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise Damaged(f"{name} has {size} bytes of {entry['bytes']}")
        if _sha(path) != entry["sha256"]:
            raise Damaged(f"{name} differs from its sha256")
    return body


def flush(path: pathlib.Path) -> None:
    """Puts a file or folder on the disk, against a loss of power."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
