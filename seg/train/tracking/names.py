"""What may stand in a tracking record: names, lengths, and no secrets."""

import hashlib
import posixpath
import re
from typing import Any

# MLflow's limits: a name 250, a param 6,000, a tag 8,000 (older servers 5,000)
_NAME, _VALUE = 250, 5000
_USER = re.compile(r"(://)[^/\s]*@")
_QUERY = re.compile(
    r"([?&;][^=&;\s]*(?:password|passwd|pwd|token|key|secret|sig)[^=&;\s]*=)"
    r"[^&;\s]+",
    re.IGNORECASE,
)


def clean(name: str) -> str:
    """The name with what MLflow refuses replaced; "a//b?" gives "a/b_"."""
    name = re.sub(r"[^\w\-./ :]", "_", str(name))
    name = posixpath.normpath(name).lstrip("/.") or "_"
    return name if len(name) <= _NAME else distinct(name, name)


def distinct(name: str, raw: str) -> str:
    """The name ended by a mark of `raw`, within the length allowed."""
    mark = hashlib.sha256(raw.encode()).hexdigest()[:8]
    return f"{name[: _NAME - 9]}_{mark}"


def file(name: str) -> str:
    """The name as one part of a path."""
    return re.sub(r"[^\w\-.]", "_", name).lstrip(".")[:100] or "run"


def text(value: Any) -> str:
    """A knob's value as it is recorded."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def cut(text: str) -> str:
    """The text within the length allowed for a value."""
    text = str(text)
    return text if len(text) <= _VALUE else text[: _VALUE - 3] + "..."


def redact(text: str) -> str:
    """The text without the passwords and tokens of the URIs in it."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
