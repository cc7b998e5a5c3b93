"""A web application with tiny models on a real port of this machine."""

import contextlib
import dataclasses
import io
import threading
import time

import httpx
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from seg import config, models
from seg.data import synthetic
from seg.predict import bundle
from seg.serve import choices, server, state

MAX_BYTES = 2_000_000


@dataclasses.dataclass
class Site:
    """A server that runs, its state, and a client of it."""

    client: httpx.Client
    state: state.Application
    address: str
    n_batches: list[int]

    def upload(self, content, **query):
        """The answer to an uploaded file."""
        return self.client.post("/api/images", content=content, params=query)


def save_model(folder, **changes):
    """The bundle of a tiny network.

    Of one class, its map is high where the image is bright.
    """
    settings = config.replace(
        config.Config(),
        {
            "model.width": 4,
            "model.depth": 1,
            "predict.tile": 64,
            "predict.min_area": (9,),
            **{k.replace("__", "."): v for k, v in changes.items()},
        },
    )
    network = models.build(settings.model, nnx.Rngs(0))
    made = bundle.from_model(settings, network)
    weights = dict(made.weights)
    if settings.model.n_classes == 1:
        for name, value in weights.items():
            if name.endswith("kernel"):  # each gives a mean of what it sees
                fan_in = np.prod(value.shape[:-1])
                weights[name] = np.full(value.shape, 1 / fan_in, np.float32)
        weights["head/kernel"] *= 12
        weights["head/bias"] = weights["head/bias"] - np.float32(4)
    return bundle.save(dataclasses.replace(made, weights=weights), folder)


def save_models(folder):
    """Folders of two tiny models in there: one class, and three."""
    save_model(folder / "nuclei")
    save_model(
        folder / "beads",
        model__n_classes=3,
        classes=("background", "bead", "cell"),
        predict__min_area=(4, 9),
    )
    return [str(folder / "nuclei"), str(folder / "beads")]


@pytest.fixture(scope="package")
def bundles(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


@contextlib.contextmanager
def serving(sources, token="", host="127.0.0.1", budget=30_000_000):
    """Yields a Site; the server ends with the block."""
    n_batches = [0]

    def on_batch():
        shared.network.check()
        n_batches[0] += 1

    shared = state.Application(MAX_BYTES, budget)
    shared.choices = choices.find(sources, engine="jax", on_batch=on_batch)
    with server.listen("127.0.0.1", 0) as listening:
        runs = server.prepared(shared, host, token)
        thread = threading.Thread(target=runs.run, args=([listening],))
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            with httpx.Client(
                base_url=address,
                timeout=60,
                limits=httpx.Limits(max_connections=50),
            ) as client:
                yield Site(client, shared, address, n_batches)
        finally:
            runs.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="package")
def site(bundles):
    with serving(bundles) as found:
        yield found


def draw(index=0, **changes):
    """A drawn image of nuclei, uint16 [H, W]."""
    spec = config.Synthetic(
        **{"height": 96, "width": 128, "diameter": 14.0, "n_objects": 25}
        | changes
    )
    return synthetic.draw(spec, index)["image"][..., 0]


def png(pixels):
    """The bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def until(holds, patience_s=10.0):
    """Waits until something holds."""
    end = time.monotonic() + patience_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    assert holds()
