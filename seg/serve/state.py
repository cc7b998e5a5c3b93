"""What the routes share: models, images, and the threads that work on them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import fastapi

from seg import config as config_lib
from seg.serve import choices, results, store, threads

_N_UPLOADS = 8  # that come, wait or are segmented at a time
_N_QUESTIONS = 64  # other requests that wait
_SHARE = 4  # the part of the memory that is for what was found
_SWEEP_S = 60.0


class Application:
    """The state behind the routes.

    Parameters
    ----------
    max_bytes : of an uploaded file.
    budget : bytes of what is kept, images and what was found in them.
    """

    def __init__(self, max_bytes: int, budget: int):
        self.max_bytes = max_bytes
        self.choices: dict[str, choices.Choice] = {}
        of_results = budget // _SHARE
        self.results = results.Results(of_results)
        self.store = store.Store(budget - of_results, self.results.forget)
        self.uploads = threads.Places(_N_UPLOADS)
        self.network = threads.Threads(1, _N_UPLOADS)
        self.others = threads.Threads(2, _N_QUESTIONS)
        self.example = b""

    def choice(self, name: str | None) -> choices.Choice:
        """A model by its name, without one the first; raises UserError."""
        if name is None:
            return next(iter(self.choices.values()))
        if name not in self.choices:
            raise config_lib.UserError(
                config_lib.unknown("model", name, self.choices)
            )
        return self.choices[name]

    @contextlib.asynccontextmanager
    async def running(self, app: fastapi.FastAPI) -> AsyncIterator[None]:
        """Forgets what is old while the server runs, and all in the end."""

        async def sweep() -> None:
            while True:
                await asyncio.sleep(_SWEEP_S)
                self.sweep()

        sweeping = asyncio.ensure_future(sweep())
        # the first image need not wait for it then
        self.network.start(self.choice(None).predictor)
        try:
            yield
        finally:
            sweeping.cancel()
            self.end()
            self.store.clear()
            self.results.clear()

    def sweep(self) -> None:
        """Forgets what is old, and what was found in images that are gone."""
        self.store.sweep()
        self.results.retain(lambda id: id in self.store)

    def end(self) -> None:
        """Stops the work that runs, and begins no more."""
        self.network.end()
        self.others.end()
