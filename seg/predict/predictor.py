"""From an image to objects: what `seg.load` gives.

    predictor = seg.load("runs/demo")
    found = predictor("cells.tif")
    found.labels, found.classes, found.table.to_csv("objects.csv")

The intensities of the whole image are measured once; its windows go through
the network, which scales them by these, and are blended (`stitch`); `blobs`
makes objects of the map.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from seg import config as config_lib
from seg import images, normalize, tiles
from seg.images import about, read, resize, slide
from seg.predict import blobs, ensemble, physical, scaled, stitch
from seg.predict import bundle as bundle_lib
from seg.predict import engine as engines
from seg.predict.engine import graph_cache
from seg.predict.segmentation import Segmentation, Table

Image = np.ndarray | str | os.PathLike[str] | bytes

_LOG = logging.getLogger(__name__)
_MAX_CHANNELS = 4
# Networks that average over the whole window, as group normalisation does: it
# should be as large as those of the training.
_AVERAGING = ("deeplab_v3plus", "residual_unet")


class Predictor:
    """Segments images with one model, or with the mean of several.

    Parameters
    ----------
    bundle : the model.
    predict : settings; by default those of the bundle.
    engine : what runs the network, a name of `seg.predict.engine`. Some need
        the model as a graph; where the bundle has none, it is made, and is in
        `Predictor.bundles`, whose first is `Predictor.bundle`.
    others : more models, whose probabilities are averaged with the first's.
    on_batch : called before each batch of windows, by the threads that run
        them; may raise to stop.
    """

    def __init__(
        self,
        bundle: bundle_lib.Bundle,
        predict: config_lib.Predict | None = None,
        *,
        engine: str = "auto",
        others: Sequence[bundle_lib.Bundle] = (),
        on_batch: Callable[[], None] = lambda: None,
    ):
        bundles = [bundle, *others]
        ensemble.check(bundles)
        config = bundle.config
        if predict is not None:
            config = dataclasses.replace(config, predict=predict)
        if others and config.predict.calibration:
            _LOG.warning(
                "probabilities of objects are means: predict.calibration is of "
                "one model, not of the mean of several"
            )
            changes = {"predict.calibration": ()}
            least = config.predict.min_probability
            if least == bundle.config.predict.min_probability:
                changes["predict.min_probability"] = 0.0  # it was of that one
            config = config_lib.replace(config, changes)
        self.config = config_lib.check(_able(config))
        scaled.known_zoom(self.config)  # or it is refused
        self.classes = config.classes
        name = engines.choose(engine)
        if name in engines.MODULES:
            try:
                bundles = [with_graph(one) for one in bundles]
            except config_lib.UserError as error:
                if engine != "auto":
                    raise
                _LOG.warning("%s; JAX runs the network", error)
                name = "jax"
        self.bundle, self.bundles = bundles[0], bundles
        self._engine = ensemble.joined([run_by(one, name) for one in bundles])
        self._on_batch = on_batch
        self._tile = _tile(config)

    def __call__(
        self,
        image: Image,
        *,
        name: str = "",
        stats: np.ndarray | None = None,
        pixel_size: tuple[float, float] | None = None,
        probabilities: bool = False,
    ) -> Segmentation:
        """Segments an image of any size.

        Parameters
        ----------
        image : [H, W] or [H, W, C], or the path or the bytes of a file. Types
            other than uint8 and uint16 are taken as float32.
        name : what the table's column `image` says; by default the path.
        stats : of `normalize.measure`, where they are known already.
        pixel_size : (row, column), micrometres; by default what the file says.
        probabilities : keep the map.

        Raises
        ------
        UserError
            for an image that cannot be used, naming the remedy.
        """
        size = pixel_size
        if isinstance(image, str | os.PathLike):
            name = name or os.fspath(image)
        if size is None and isinstance(image, str | os.PathLike | bytes):
            size = about.read_about(image).pixel_size
        size = self.pixel_size(size)
        pixels = as_pixels(image)
        channels = self.probabilities(pixels, stats, size)
        found = self.objects(pixels, channels, name).measured(size)
        return found if probabilities else found.without_map()

    def pixel_size(
        self, known: tuple[float, float] | None
    ) -> tuple[float, float] | None:
        """(row, column) in micrometres: as the settings say, or as known."""
        given = self.config.predict.pixel_size
        return (given, given) if given else known

    def objects(
        self,
        pixels: np.ndarray,
        probabilities: np.ndarray,
        name: str = "",
        predict: config_lib.Predict | None = None,
    ) -> Segmentation:
        """What the map of an image [H, W, C] says; name: as above.

        The map is that of `probabilities`. What is counted as intensity is the
        image as it was given. predict: other settings than the predictor's.
        """
        probabilities, apart = self.split(probabilities)
        found = blobs.detect(
            probabilities,
            pixels,
            predict or self.config.predict,
            self.classes,
            apart,
        )
        table = _table(found.table, name)
        return Segmentation(found.classes, found.labels, table, probabilities)

    def split(
        self, channels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities [H, W, K] of a map, and what keeps objects apart.

        That is [H, W], or None where the model has not learned it.
        """
        n = self.config.model.n_classes
        apart = channels[..., n] if channels.shape[-1] > n else None
        return channels[..., :n], apart

    def probabilities(
        self,
        image: Image,
        stats: np.ndarray | None = None,
        pixel_size: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """The blended map: float32 [H, W, K].

        K is 1 for a model with one sigmoid, else the number of classes; one
        that has learned to keep objects apart (`model.objects`) adds a channel
        with that map. With `data.resize` the network sees the image at that
        size, else `zoom` times as large, and its map is brought back to the
        image's. pixel_size: of the image, (row, column), micrometres. If the
        accelerator's memory runs out, batches are halved, then windows.
        """
        pixels = read.as_channels(
            as_pixels(image), self.config.model.in_channels
        )
        if stats is None:
            stats = normalize.measure(pixels)
        side, shape = self.config.data.resize, pixels.shape[:2]
        if side:
            small = self._whole(resize.linear(pixels, (side, side)), stats)
            return resize.linear(small, shape)
        looked: dict[scaled.Place, np.ndarray] = {}

        def rows(top: int, bottom: int) -> np.ndarray:
            return pixels[top:bottom]

        zoom = self._zoom(rows, shape, stats, looked, pixel_size)
        whole = looked.get((0, shape[0], 0, shape[1]))
        if zoom == 1 and whole is not None:
            return whole
        return self._whole(pixels, stats, zoom)

    def zoom(
        self,
        rows: Callable[[int, int], np.ndarray],
        shape: tuple[int, int],
        stats: np.ndarray,
        pixel_size: tuple[float, float] | None = None,
    ) -> float:
        """How much larger than it is the network sees an image.

        So that its objects are as large as those of the training
        (`data.diameter`): as `predict.diameter` or `predict.pixel_size` say, or
        the pixel_size of the image itself; or else, for a model that has
        learned objects, as they look at first sight. Of a large image that is
        five places of it, and what is nearly as large stays as it is.
        `rows(top, bottom)` gives rows of the image, whose (H, W) is `shape`,
        with the model's channels.
        """
        return self._zoom(rows, shape, stats, {}, pixel_size)

    def _zoom(
        self,
        rows: Callable[[int, int], np.ndarray],
        shape: tuple[int, int],
        stats: np.ndarray,
        looked: dict[scaled.Place, np.ndarray],
        pixel_size: tuple[float, float] | None,
    ) -> float:
        """As `zoom`; `looked` takes the maps of the places it looked at."""
        side = physical.side(pixel_size) if pixel_size else None
        if known := scaled.known_zoom(self.config, side):
            return known
        trained, predict = self.config.data.diameter, self.config.predict
        if not (trained and predict.rescale and predict.separate == "learned"):
            return 1.0

        def look(place: scaled.Place, zoom: float) -> np.ndarray:
            top, bottom, left, right = place
            pixels = rows(top, bottom)[:, left:right]
            found = self._whole(pixels, stats, zoom)
            if zoom == 1:
                looked[place] = found
            probabilities, apart = self.split(found)
            return blobs.areas(probabilities, predict, self.classes, apart)

        return scaled.at_first_sight(shape, trained, look)

    def _whole(
        self, pixels: np.ndarray, stats: np.ndarray, zoom: float = 1.0
    ) -> np.ndarray:
        """The blended map of an image [H, W, C], seen so much larger."""
        view = scaled.View(pixels.shape[:2], zoom)
        while True:
            window = self._window(view.shape, self._tile)
            try:
                stream = self._viewed(
                    lambda top, bottom: pixels[top:bottom], view, stats, window
                )
                return stitch.collect(stream, pixels.shape[:2])
            except engines.OutOfMemory as error:
                self._tile = window // 2
                if self._tile < self._engine.stride:
                    raise config_lib.UserError(
                        f"out of memory with one window of {window} px; free "
                        "the device or set JAX_PLATFORMS=cpu"
                    ) from error
                _LOG.warning("out of memory: windows of %d px", self._tile)

    def strips(
        self,
        rows: Callable[[int, int], np.ndarray],
        shape: tuple[int, int],
        stats: np.ndarray,
        start: int = 0,
        pixel_size: tuple[float, float] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The blended map of an image that is read by rows.

        Yields (first row, float32 [h, W, K]) from the strip that holds row
        `start` on, the same to the bit wherever it starts. `rows(top, bottom)`
        gives rows of the image, whose (H, W) is `shape`; stats are those of
        the whole image, with the model's channels; pixel_size: as above.

        Raises UserError where not one window fits into memory, and for a model
        that wants the whole image at once.
        """
        self.check_strips()
        n_channels = self.config.model.in_channels

        def channels(top: int, bottom: int) -> np.ndarray:
            return read.as_channels(rows(top, bottom), n_channels)

        zoom = self.zoom(channels, shape, stats, pixel_size)
        view = scaled.View(shape, zoom)
        # never a smaller one, that memory asked for: strips of two runs would
        # not fit together
        window = self._window(view.shape, _tile(self.config))
        try:
            yield from self._viewed(
                channels, view, stats, window, start, by_rows=True
            )
        except engines.OutOfMemory as error:
            raise config_lib.UserError(
                f"out of memory with one window of {window} px; give "
                f"--predict.tile={window // 2}, or free the device"
            ) from error

    def _window(self, shape: tuple[int, int], tile: int) -> int:
        predict = self.config.predict
        tile = tile or tiles.thriftiest(shape, predict.overlap, predict.spacing)
        return self._engine.window(shape, tile)

    def check_strips(self) -> None:
        """Raises UserError for a model that cannot take an image by strips."""
        if side := self.config.data.resize:
            raise config_lib.UserError(
                f"the model sees whole images at {side} x {side} px "
                f"(data.resize={side}), which a slide is too large for; cut "
                "it, or use a model that was trained with data.resize=0"
            )

    def _viewed(
        self,
        rows: Callable[[int, int], np.ndarray],
        view: scaled.View,
        stats: np.ndarray,
        window: int,
        start: int = 0,
        **kwargs: Any,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Strips of the blended map of an image, at its own size."""
        if view.zoom == 1:
            return self._stream(
                rows, view.whole, stats, window, start=start, **kwargs
            )
        seen = self._stream(
            view.rows(rows),
            view.shape,
            stats,
            window,
            start=view.first(start),
            **kwargs,
        )
        return view.back(seen, start)

    def _stream(
        self,
        rows: Callable[[int, int], np.ndarray],
        shape: tuple[int, int],
        stats: np.ndarray,
        window: int,
        **kwargs: Any,
    ) -> Iterator[tuple[int, np.ndarray]]:
        predict = self.config.predict
        stride = self._engine.stride
        windows = tiles.windows(
            shape, window, predict.overlap, predict.spacing, stride
        )
        n = predict.tta * len(windows)

        def run(batch: np.ndarray) -> np.ndarray:
            self._on_batch()
            return self._engine.run(batch, stats)

        return stitch.strips(
            rows,
            shape,
            run,
            window=window,
            overlap=predict.overlap,
            # An image of few windows does not fill a batch.
            batch_size=min(predict.batch_size, 1 << (n - 1).bit_length()),
            tta=predict.tta,
            blend=predict.blend,
            spacing=predict.spacing,
            n_calls=self._engine.n_calls,
            align=stride,
            **kwargs,
        )


def with_graph(bundle: bundle_lib.Bundle) -> bundle_lib.Bundle:
    """The bundle with its ONNX graph, if need be of ~/.cache/seg or made."""
    exports = dict(bundle.exports)
    if bundle_lib.GRAPH not in exports:
        exports[bundle_lib.GRAPH] = graph_cache.get(
            bundle_lib.digest(bundle), lambda: _made(bundle)
        )
    stride = bundle.stride or bundle_lib.model(bundle).stride
    return dataclasses.replace(bundle, exports=exports, stride=stride)


def _made(bundle: bundle_lib.Bundle) -> bytes:
    from seg.predict import export

    return export.onnx(bundle)


def run_by(bundle: bundle_lib.Bundle, name: str) -> engines.Engine:
    """The engine of this name; all but jax want a bundle `with_graph`."""
    if name == "jax":
        from seg.predict.engine import xla

        how = normalize.scaling(bundle.config.data)
        return xla.Xla(bundle_lib.model(bundle), how)
    from seg.predict.engine import graphs

    content = bundle.exports[bundle_lib.GRAPH]
    return graphs.ENGINES[name](content, bundle.stride)


def _able(config: config_lib.Config) -> config_lib.Config:
    """The settings, but for a separation that the model has not learned."""
    predict = config.predict
    if predict.separate != "learned" or config.model.objects != "none":
        return config
    _LOG.warning(
        "predict.separate=learned: the model has not learned to separate "
        "objects (model.objects=none); connected components are taken"
    )
    predict = dataclasses.replace(predict, separate="components")
    return dataclasses.replace(config, predict=predict)


def _tile(config: config_lib.Config) -> int:
    """The side of windows; 0 where the image decides."""
    averages = config.model.name in _AVERAGING or config.model.norm == "group"
    return config.predict.tile or (config.data.tile if averages else 0)


def as_pixels(image: Image) -> np.ndarray:
    """The image as [H, W, C] in uint8, uint16 or float32.

    Raises ImageError for a file that cannot be read, and for an array of
    another rank, without pixels, or with NaN or infinite values.
    """
    if isinstance(image, str | os.PathLike):
        return slide.read_image(image)
    if isinstance(image, bytes):
        return read.read_image(image)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] > _MAX_CHANNELS:
        raise images.ImageError(
            f"an array of shape {pixels.shape}; give [H, W] or [H, W, C], "
            "channels last, one plane of a stack at a time"
        )
    if not pixels.size:
        raise images.ImageError(f"an array of shape {pixels.shape} is empty")
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise images.ImageError(
                "the array has NaN or infinite values; replace them"
            )
    return pixels


def _table(rows: Iterable[Mapping[str, Any]], name: str) -> Table:
    return Table({"image": name, **row} for row in rows)
