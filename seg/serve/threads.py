"""Work beside the event loop, with a bounded queue before it.

What is too much is refused at once (`Busy`), rather than kept waiting until
memory or patience ends. Work whose client has gone is not begun, and stops at
its next `check`.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import TypeVar

from starlette.requests import Request

Result = TypeVar("Result")


class Busy(Exception):
    """There is no place in the queue."""


class Gone(Exception):
    """The client waits no more, or the server ends."""


class Places:
    """So many may be inside at a time; for the event loop's thread."""

    def __init__(self, n: int):
        self.n, self.n_taken = n, 0

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Takes a place for a block; raises Busy if there is none."""
        if self.n_taken >= self.n:
            raise Busy
        self.n_taken += 1
        try:
            yield
        finally:
            self.n_taken -= 1


class Threads:
    """A few threads, and places for what waits for them."""

    def __init__(self, n_threads: int, n_places: int):
        self._pool = futures.ThreadPoolExecutor(n_threads)
        self._places = Places(n_places)
        self._current = threading.local()
        self._ended = threading.Event()

    async def run(self, request: Request, call: Callable[[], Result]) -> Result:
        """What a call gives that a thread makes for a request.

        Raises Busy where too many wait, Gone when the client has left.
        """
        unwanted = threading.Event()

        def work() -> Result:
            self._current.unwanted = unwanted
            self.check()
            return call()

        with self._places.taken():
            if self._ended.is_set():
                raise Gone
            made = self._pool.submit(work)
            result = asyncio.wrap_future(made)
            gone = asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait(
                    {result, gone}, return_when=asyncio.FIRST_COMPLETED
                )
                if not result.done() or result.cancelled():
                    raise Gone
                return result.result()
            finally:
                unwanted.set()
                result.cancel()
                gone.cancel()

    def start(self, call: Callable[[], object]) -> None:
        """Makes a call for nobody; its error comes with the next that is."""
        self._pool.submit(call)

    def check(self) -> None:
        """Raises Gone in a thread whose result nobody wants any more."""
        unwanted = getattr(self._current, "unwanted", None)
        if self._ended.is_set() or (unwanted and unwanted.is_set()):
            raise Gone

    def end(self) -> None:
        """Begins nothing more; what runs stops at its next check."""
        self._ended.set()
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _gone(request: Request) -> None:
    """Returns when the client of a request that was read has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
