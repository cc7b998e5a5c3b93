"""Uploaded images with the network's maps, in memory only.

Bounded by bytes and by age: the image that was longest not asked for goes
first. Ids are random, so that who has not uploaded an image cannot ask for
it. For the event loop's thread.
"""

import dataclasses
import os
import secrets
import time
from collections.abc import Callable

import numpy as np

from seg.serve import choices

MAX_AGE_S = 3600.0


class Unknown(KeyError):
    """No such image, or no more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """An image [H, W, C] and what a model's network says of it.

    name: of the uploaded file, for people; never a path.
    pixel_size: (row, column), micrometres; None = not known.
    """

    name: str
    choice: choices.Choice
    pixels: np.ndarray
    probabilities: np.ndarray
    pixel_size: tuple[float, float] | None = None
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return self.pixels.nbytes + self.probabilities.nbytes


class Store:
    """Images by id.

    Parameters
    ----------
    budget : bytes that all take together; one alone may be larger.
    forget : is told the id of every image that goes.
    clock : seconds, only for tests another one.
    """

    def __init__(
        self,
        budget: int,
        forget: Callable[[str], None] = lambda id: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._budget, self._forget, self._clock = budget, forget, clock
        self._images: dict[str, tuple[float, Stored]] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, id: str) -> bool:
        return id in self._images

    @property
    def n_bytes(self) -> int:
        """Memory that all take."""
        return sum(stored.n_bytes for _, stored in self._images.values())

    def add(self, stored: Stored) -> None:
        """Keeps an image; others may have to go."""
        self._images[stored.id] = self._clock(), stored
        while self.n_bytes > self._budget and len(self._images) > 1:
            self.remove(next(iter(self._images)))

    def get(self, id: str) -> Stored:
        """The image of this id; raises Unknown."""
        self.sweep()
        if id not in self._images:
            raise Unknown(id)
        _, stored = self._images.pop(id)
        self._images[id] = self._clock(), stored
        return stored

    def remove(self, id: str) -> None:
        """Forgets an image; raises Unknown."""
        if self._images.pop(id, None) is None:
            raise Unknown(id)
        self._forget(id)

    def sweep(self) -> None:
        """Forgets what nobody has asked for in `MAX_AGE_S`."""
        oldest = self._clock() - MAX_AGE_S
        for id, (used, _) in list(self._images.items()):
            if used < oldest:
                self.remove(id)

    def clear(self) -> None:
        """Forgets all images."""
        for id in list(self._images):
            self.remove(id)


def budget() -> int:
    """A quarter of this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
