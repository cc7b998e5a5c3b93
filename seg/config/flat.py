"""A config by dotted paths: as a flat dict, as JSON, changed, compared."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from seg.config.errors import ConfigError, unknown
from seg.config.knobs import Config

Field = dataclasses.Field


def fields(part: Any, prefix: str = "") -> Iterator[tuple[str, Any, Field]]:
    """Yields (dotted path, value, its dataclass field) of every knob."""
    for field in dataclasses.fields(part):
        value, path = getattr(part, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{path}.")
        else:
            yield path, value, field


def leaves() -> Iterator[tuple[str, Any, Any, str]]:
    """Yields (dotted path, default, type, help) of every knob."""
    for path, value, field in fields(Config()):
        yield path, value, field.type, field.metadata["help"]


def to_flat(config: Config) -> dict[str, Any]:
    """The knobs by dotted path."""
    return {path: value for path, value, _ in fields(config)}


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """A config with the knobs at these dotted paths changed.

    Values are converted to the knob's type (JSON lists to tuples, ints to
    floats). Raises ConfigError for an unknown path or a value that does not
    fit, naming both.
    """
    kinds = {path: kind for path, _, kind, _ in leaves()}
    for path, value in changes.items():
        if path not in kinds:
            raise ConfigError(unknown("knob", path, kinds))
        config = _set(config, path.split("."), _cast(path, value, kinds[path]))
    return config


def _set(part: Any, keys: list[str], value: Any) -> Any:
    if len(keys) > 1:
        value = _set(getattr(part, keys[0]), keys[1:], value)
    return dataclasses.replace(part, **{keys[0]: value})


def _cast(path: str, value: Any, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: {value!r} is not a list")
        item, rest = typing.get_args(kind)
        if rest is not Ellipsis and len(value) != len(typing.get_args(kind)):
            raise ConfigError(f"{path}: {value!r} needs two values")
        return tuple(_cast(path, v, item) for v in value)
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, kind) or (kind is int and type(value) is bool):
        raise ConfigError(f"{path}: {value!r} is not of type {kind.__name__}")
    return value


def to_json(config: Config) -> str:
    """The whole config as JSON, nested by part."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads `to_json`'s text back; raises ConfigError where it does not fit."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"config is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"config is no JSON object: {text:.50}")
    return replace(Config(), _flatten(tree, ""))


def _flatten(tree: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.")
    return flat


def diff(old: Config, new: Config) -> list[str]:
    """Lines "path: old -> new" for the knobs that differ."""
    before, after = to_flat(old), to_flat(new)
    return [
        f"{path}: {before[path]!r} -> {after[path]!r}"
        for path in before
        if before[path] != after[path]
    ]
