"""The web application on a port: what `seg serve` runs."""

import errno
import secrets
import signal
import socket
import types
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from seg import config as config_lib
from seg.serve import app, choices, guard, state, store

_N_CONNECTIONS = 200  # more are answered 503
_END_S = 3  # for answers that are being sent when the server ends


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises UserError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise config_lib.UserError(
                f"port {port} of {host} is in use; give another, as "
                f"--port={port + 1}, or --port=0 for any that is free"
            ) from error
        raise config_lib.UserError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give "
            "another --host or --port"
        ) from error


def address(listening: socket.socket, token: str) -> str:
    """What to open in a browser."""
    host, port = listening.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "[::]"):  # all addresses: the machine's name is one
        host = socket.gethostname()
    return f"http://{host}:{port}/" + (f"?token={token}" if token else "")


class _Server(uvicorn.Server):
    """Stops the network's work first, for which uvicorn would wait."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]):
        super().__init__(config)
        self._end = end

    async def shutdown(
        self, sockets: list[socket.socket] | None = None
    ) -> None:
        self._end()
        await super().shutdown(sockets)


def prepared(
    shared: state.Application, host: str, token: str = ""
) -> uvicorn.Server:
    """The server of an application, for a socket that listens on a host."""
    guarded = guard.Guard(
        app.build(shared),
        host=host,
        token=token,
        max_bytes=shared.max_bytes,
    )
    return _Server(
        uvicorn.Config(
            guarded,
            log_level="critical",  # the guard logs what goes wrong
            access_log=False,
            server_header=False,
            loop="asyncio",  # uvloop changes the loops of the whole process
            http="h11",
            ws="none",
            lifespan="on",
            timeout_keep_alive=30,
            limit_concurrency=_N_CONNECTIONS,
            timeout_graceful_shutdown=_END_S,
        ),
        shared.end,
    )


def run(
    sources: Sequence[str],
    *,
    host: str,
    port: int,
    max_mb: int,
    token: str = "",
    say: Callable[[str], None] = print,
    **settings: Any,
) -> None:
    """Serves models until SIGINT or SIGTERM.

    Parameters
    ----------
    sources : of the models, as `choices.find` takes them.
    host, port : where to listen; port 0 is one that is free. Beyond this
        machine a token is asked for: `token`, else one that is drawn.
    max_mb : of an uploaded file.
    say : gets the address once it can be opened.
    settings : engine and changes of `choices.Choice`.

    Raises UserError for models that cannot be used and for a port that cannot
    be had.
    """
    with listen(host, port) as listening:
        if guard.is_loopback(host):
            token = ""
        else:
            token = token or secrets.token_urlsafe(24)
        shared = state.Application(max_mb * 1_000_000, store.budget())
        shared.choices = choices.find(
            sources, on_batch=shared.network.check, **settings
        )
        server = prepared(shared, host, token)
        say(address(listening, token))
        # uvicorn stops at a signal, then raises it again
        before = {
            number: signal.signal(number, _ignore)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            server.run(sockets=[listening])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _ignore(number: int, frame: types.FrameType | None) -> None:
    del number, frame
