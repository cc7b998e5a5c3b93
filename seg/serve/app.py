"""The web application: the page, the API, and what becomes of errors.

The network runs on one thread, objects are found and files are written on two
others; what does not fit into their queues is answered 429. Nothing is written
to the disk but a download's temporary files, nothing is fetched from anywhere.
"""

import pathlib
from typing import Any

import fastapi
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

import seg
from seg import config as config_lib
from seg import images
from seg.serve import guard, routes, store, threads
from seg.serve.state import Application

PAGE = pathlib.Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_BUSY = (
    "The server has as many images as it can work on at a time; please try "
    "again in a moment."
)
_UNKNOWN = (
    "The server no longer has this image: it keeps the latest ones for an "
    "hour, as far as its memory goes. Open the image again."
)


def build(state: Application) -> fastapi.FastAPI:
    """The application, without its guard."""
    app = fastapi.FastAPI(
        title="seg",
        version=seg.__version__,
        description="Segments microscopy images: upload one, get its objects, "
        "change the threshold and get them again, download them. Errors are "
        '{"error": "a sentence"}.',
        lifespan=state.running,
        # these pages would load scripts from elsewhere
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(routes.api(state))

    @app.get("/{file}", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page(file: str = "index.html") -> Response:
        path = PAGE / file
        if file not in _files() or path.suffix not in _TYPES:
            raise HTTPException(404)
        return Response(
            path.read_bytes(),
            media_type=_TYPES[path.suffix],
            headers={"Cache-Control": "no-cache"},
        )

    _handle_errors(app)
    return app


def _handle_errors(app: fastapi.FastAPI) -> None:
    """Every error is one sentence; no traceback leaves the server."""

    def on(kind: type[Exception], answer: Any) -> None:
        async def handle(request: Request, error: Any) -> Response:
            return answer(error)

        app.add_exception_handler(kind, handle)

    on(guard.Refused, lambda e: guard.error(e.status, e.sentence))
    on(threads.Busy, lambda e: guard.error(429, _BUSY))
    on(threads.Gone, lambda e: guard.error(503, "The server is stopping."))
    on(store.Unknown, lambda e: guard.error(404, _UNKNOWN))
    on(images.TooLargeError, lambda e: guard.error(413, f"{e}."))
    on(images.StackError, _stack)
    on(config_lib.UserError, lambda e: guard.error(422, f"{e}."))
    on(MemoryError, lambda e: guard.error(413, "Not enough memory for it."))
    on(RequestValidationError, _invalid)
    on(
        HTTPException,
        lambda e: guard.error(e.status_code, f"{e.detail}."),
    )
    on(
        Exception,
        lambda e: guard.error(
            500,
            "Something went wrong on the server; its terminal says what. "
            "Other images are not affected.",
        ),
    )


def _stack(error: images.StackError) -> Response:
    name = str(error).partition(": ")[0]
    sizes = " and ".join(f"{n} along {a}" for a, n in error.sizes.items())
    return guard.error(
        422,
        f"{name} is a stack of {sizes}: choose what to segment.",
        choose=error.sizes,
    )


def _invalid(error: RequestValidationError) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return guard.error(422, f"{where}: {first['msg']}.")


def _files() -> set[str]:
    return {path.name for path in PAGE.iterdir()}
