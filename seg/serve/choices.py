"""The models that can be chosen; each is made ready when it is first used."""

import pathlib
import threading
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seg
from seg import config as config_lib
from seg.predict import bundle, ensemble

if typing.TYPE_CHECKING:  # it brings JAX: seconds before the page is there
    from seg.predict import predictor


class Choice:
    """One model, or the mean of several.

    Parameters
    ----------
    name : what the page calls it.
    source : what `seg.find_all` takes.
    engine, on_batch : of `Predictor`.
    changes : knobs to change, by dotted path.

    Raises UserError for a model that cannot be used.
    """

    def __init__(
        self,
        name: str,
        source: str,
        *,
        engine: str = "auto",
        changes: Mapping[str, Any] | None = None,
        on_batch: Callable[[], None] = lambda: None,
    ):
        self.name = name
        self._bundles = [bundle.load(path) for path in seg.find_all(source)]
        ensemble.check(self._bundles)
        config = config_lib.replace(self._bundles[0].config, changes or {})
        self.config = config_lib.check(config)
        self._engine, self._on_batch = engine, on_batch
        self._made: predictor.Predictor | None = None
        self._alone = threading.Lock()

    @property
    def meta(self) -> Mapping[str, Any]:
        """What is known about the model: metrics, licence, ..."""
        return self._bundles[0].meta

    def predictor(self) -> "predictor.Predictor":
        """The predictor; the first call takes seconds."""
        from seg.predict import predictor

        with self._alone:
            if self._made is None:
                first, *others = self._bundles
                self._made = predictor.Predictor(
                    first,
                    others=others,
                    predict=self.config.predict,
                    engine=self._engine,
                    on_batch=self._on_batch,
                )
            return self._made


def find(sources: Sequence[str], **settings: Any) -> dict[str, Choice]:
    """The choices by name, in the order of their sources.

    settings: those of `Choice`. A name is the last part of a path that says
    something, or all of it where two would be called the same.
    """
    short = [_short(source) for source in sources]
    names = [
        name if short.count(name) == 1 else source
        for name, source in zip(short, sources, strict=True)
    ]
    return {
        name: Choice(name, source, **settings)
        for name, source in zip(names, sources, strict=True)
    }


def _short(source: str) -> str:
    parts = [pathlib.PurePath(part.strip()) for part in source.split(",")]
    return ", ".join(
        path.parent.name if path.name == "bundle" else path.name
        for path in parts
    )
