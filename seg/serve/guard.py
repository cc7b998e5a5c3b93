"""Who may ask, how much may be sent, and the headers of every answer.

Before any route: the Host must be this server's (a page elsewhere whose name
was turned to this address is refused), so must the Origin, and where the
server listens beyond this machine, the token must be right. Bodies are counted
as they come, whatever their header says, and must keep coming.
"""

import asyncio
import hmac
import ipaddress
import logging
import socket
import time
from http import cookies
from urllib import parse

from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "seg_token"
_IDLE_S = 20.0  # until the next bytes of a body
_WHOLE_S = 600.0  # until its last
_LINGER_S = 5.0  # of reading on, so that the client sees the answer
_LOG = logging.getLogger(__name__)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Refused(Exception):
    """An answer with a status and one sentence for people."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def error(status: int, sentence: str, **more: object) -> JSONResponse:
    """The answer to what cannot be done: {"error": sentence, ...}."""
    headers = {"Retry-After": "2"} if status == 429 else {}
    return JSONResponse({"error": sentence, **more}, status, headers)


def is_loopback(host: str) -> bool:
    """Whether a host's name is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Stands before an application.

    Parameters
    ----------
    app : what is guarded.
    host : where the server listens.
    token : what a client must know; "" = nothing.
    max_bytes : of a body.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str, max_bytes: int):
        self._app, self._token, self._max_bytes = app, token, max_bytes
        self._names = {"localhost", host.lower()}  # as names come
        self._machine = socket.gethostname().lower().partition(".")[0]

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = _Body(receive, self._max_bytes)

        request = Request(scope)
        headers = dict(_HEADERS)
        if _is_api(request):
            headers["Cache-Control"] = "no-store"  # images are nobody else's

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in headers.items()),
                ]
            await send(message)

        try:
            answer = self._entered(request)
            if not answer:
                await self._check_length(request, body)
                return await self._app(scope, body.receive, sending)
        except Refused as refused:
            answer = self._refusal(request, refused)
        except Exception:  # a bug, which the application has answered
            return _LOG.exception("%s failed", request.url.path)
        return await answer(scope, receive, sending)

    def _refusal(self, request: Request, refused: Refused) -> Response:
        if _is_api(request):
            return error(refused.status, refused.sentence)
        return PlainTextResponse(refused.sentence, refused.status)

    def _entered(self, request: Request) -> Response | None:
        """Raises Refused for who may not ask; an answer to who brings a token.

        The address with the token gives a cookie, and the token leaves the
        address bar.
        """
        self._check_names(request)
        if not self._token:
            return None
        if (given := request.query_params.get("token")) is not None:
            self._check_token(given)
            answer = RedirectResponse("/", 303)
            answer.set_cookie(
                COOKIE, self._token, httponly=True, samesite="strict"
            )
            return answer
        bearer = request.headers.get("authorization", "")
        found = cookies.SimpleCookie()
        try:
            found.load(request.headers.get("cookie", ""))
        except cookies.CookieError:
            found.clear()
        if COOKIE in found:
            self._check_token(found[COOKIE].value)
        else:
            self._check_token(bearer.removeprefix("Bearer ").strip())
        return None

    def _check_token(self, given: str) -> None:
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise Refused(
                401,
                "This server asks for its token: open the whole address that "
                "it printed when it was started.",
            )

    def _check_names(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if not self._is_ours(_hostname(f"//{host}")):
            raise Refused(
                403,
                "This server does not answer to that name; open the address "
                "that it printed when it was started.",
            )
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "none")
        elsewhere = origin is not None and not (
            origin.startswith(("http://", "https://"))
            and parse.urlsplit(origin).netloc.lower() == host.lower()
        )
        if elsewhere or (
            _is_api(request) and site not in ("none", "same-origin")
        ):
            raise Refused(403, "Another site's page may not use this server.")

    def _is_ours(self, name: str) -> bool:
        if name in self._names or is_loopback(name):
            return True
        if not self._token:
            return False
        # The token guards what a name alone does not: this machine's, in any
        # domain, and numbers, which cannot be turned to another address.
        if name.partition(".")[0] == self._machine:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _check_length(self, request: Request, body: "_Body") -> None:
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) <= self._max_bytes:
            return
        if request.headers.get("expect", "").lower() != "100-continue":
            await body.discard()
        raise Refused(413, self.too_large(self._max_bytes))

    @staticmethod
    def too_large(max_bytes: int) -> str:
        """The sentence for a body over the limit."""
        return (
            f"The file is larger than {max_bytes / 1e6:.0f} MB, the most that "
            "is taken here. Save it compressed, cut it, or use `seg predict`, "
            "which takes files of any size."
        )


def _is_api(request: Request) -> bool:
    return request.scope["path"].startswith("/api/")


def _hostname(url: str) -> str:
    try:
        return parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""


class _Body:
    """A request's body, counted, and timed while it comes."""

    def __init__(self, receive: Receive, max_bytes: int):
        self._receive, self._max_bytes = receive, max_bytes
        self._n_bytes, self._complete = 0, False
        self._until = time.monotonic() + _WHOLE_S

    async def receive(self) -> Message:
        """As ASGI's; raises Refused for too much and for too slow."""
        if self._complete:
            return await self._receive()
        try:
            message = await self._next(_IDLE_S)
        except TimeoutError:
            raise Refused(
                408, "The upload came to a halt; please try again."
            ) from None
        if self._n_bytes > self._max_bytes:
            await self.discard()
            raise Refused(413, Guard.too_large(self._max_bytes))
        return message

    async def discard(self) -> None:
        """Reads what still comes, for a while, and keeps nothing of it."""
        self._until = time.monotonic() + _LINGER_S
        try:
            while not self._complete:
                await self._next(_LINGER_S)
        except TimeoutError:
            pass

    async def _next(self, patience_s: float) -> Message:
        left = self._until - time.monotonic()
        message = await asyncio.wait_for(
            self._receive(), max(0.0, min(patience_s, left))
        )
        self._n_bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message
