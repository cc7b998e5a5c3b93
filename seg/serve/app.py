"""The routes of the web application: the page, and the API that it uses.

The network runs on one thread, objects are found and files are written on two
others; what does not fit into their queues is answered 429. Nothing is written
to the disk but a download's temporary files, nothing is fetched from anywhere.
"""

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any
from urllib import parse

import fastapi
from fastapi import Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

import seg
from seg import config as config_lib
from seg import images
from seg.data import synthetic
from seg.serve import (
    answers,
    choices,
    downloads,
    guard,
    results,
    store,
    threads,
    uploads,
    views,
)

PAGE = pathlib.Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_N_UPLOADS = 8  # that come, wait or are segmented at a time
_N_QUESTIONS = 64  # other requests that wait
_SWEEP_S = 60.0
_MAX_IDS = 1000
_LOG = logging.getLogger(__name__)
_BUSY = (
    "The server has as many images as it can work on at a time; please try "
    "again in a moment."
)
_UNKNOWN = (
    "The server no longer has this image: it keeps the latest ones for an "
    "hour, as far as its memory goes. Open the image again."
)
_EXAMPLE = config_lib.Synthetic(
    kind="nuclei", height=512, width=640, diameter=34.0, n_objects=70
)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": answers.Error} for status in statuses}


class Application:
    """The state behind the routes.

    Parameters
    ----------
    max_bytes : of an uploaded file.
    budget : bytes of the images that are kept.
    """

    def __init__(self, max_bytes: int, budget: int):
        self.max_bytes = max_bytes
        self.choices: dict[str, choices.Choice] = {}
        self.store = store.Store(budget)
        self.results = results.Results()
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
                self.store.sweep()

        sweeping = asyncio.ensure_future(sweep())
        # the first image need not wait for it then
        self.network.start(self.choice(None).predictor)
        try:
            yield
        finally:
            sweeping.cancel()
            self.network.end()
            self.others.end()
            self.store.clear()


async def _settings(
    threshold: Annotated[
        float | None,
        Query(description="Foreground probability, 0 to 1.", ge=0, le=1),
    ] = None,
    min_area: Annotated[
        list[Annotated[int, Query(ge=0)]] | None,
        Query(
            description="Least area of an object, px; once, or once for each "
            "foreground class.",
        ),
    ] = None,
    separate: Annotated[
        answers.Separate | None,
        Query(description="How touching objects are parted."),
    ] = None,
    fill_holes: Annotated[
        bool | None, Query(description="Fill the holes of objects.")
    ] = None,
    drop_border: Annotated[
        bool | None,
        Query(description="Leave out objects that touch the border."),
    ] = None,
) -> results.Settings:
    return results.Settings(
        threshold,
        tuple(min_area) if min_area else None,
        separate,
        fill_holes,
        drop_border,
    )


Settings = Annotated[results.Settings, fastapi.Depends(_settings)]
Id = Annotated[str, fastapi.Path(description="Of an uploaded image.")]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"}
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"}
                    },
                }
            },
        },
    }
}


def _api(state: Application) -> fastapi.APIRouter:
    api = fastapi.APIRouter(prefix="/api")

    @api.get("/about", summary="Models, formats and limits")
    async def about() -> answers.About:
        return answers.about(seg.__version__, state.choices, state.max_bytes)

    @api.get(
        "/example.png",
        summary="A drawn image of nuclei to try it with",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
    )
    async def example(request: Request) -> Response:
        if not state.example:
            state.example = await state.others.run(request, _drawn)
        return Response(state.example, media_type="image/png")

    @api.post(
        "/images",
        status_code=201,
        summary="Upload an image and segment it",
        openapi_extra=_BODY,
        responses=_errors(400, 403, 408, 413, 415, 422, 429),
    )
    async def upload(
        request: Request,
        settings: Settings,
        name: Annotated[
            str, Query(description="The file's name, for people.")
        ] = "",
        model: Annotated[
            str | None, Query(description="One of /api/about; else the first.")
        ] = None,
        select: Annotated[
            str, Query(description="The plane of a stack, as Z=3 or Z=3,T=0.")
        ] = "",
    ) -> answers.Found:
        """The file is the body itself, or a form's field `file`."""
        choice = state.choice(model)
        predict = settings.of(choice.config)
        with state.uploads.taken():
            content, called = await uploads.content(request)
            called = uploads.called(name) if name else called

            def segment() -> tuple[store.Stored, Any]:
                pixels = uploads.pixels(content, called, select)
                use = choice.predictor()
                stored = store.Stored(
                    called, choice, pixels, use.probabilities(pixels)
                )
                return stored, state.results.of(stored, settings)

            stored, found = await state.network.run(request, segment)
        state.store.add(stored)
        return answers.found(stored, found, predict)

    @api.get(
        "/images/{id}",
        summary="Find the objects again, by other settings",
        responses=_errors(404, 422, 429),
    )
    async def result(
        request: Request, id: Id, settings: Settings
    ) -> answers.Found:
        """The network does not run again."""
        stored = state.store.get(id)
        predict = settings.of(stored.choice.config)
        return await state.others.run(
            request,
            lambda: answers.found(
                stored, state.results.of(stored, settings), predict
            ),
        )

    @api.get(
        "/images/{id}/image.png",
        summary="The image as it is best looked at",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **_errors(404, 429)},
    )
    async def picture(
        request: Request,
        id: Id,
        side: Annotated[
            int,
            Query(
                description="The longer side at most, px; 0 = the view's.",
                ge=0,
                le=8192,
            ),
        ] = 0,
    ) -> Response:
        stored = state.store.get(id)
        content = await state.others.run(
            request, lambda: views.picture(stored.pixels, side)
        )
        return Response(content, media_type="image/png")

    @api.get(
        "/images/{id}/labels",
        summary="The number of the object that each pixel of the view is in",
        response_class=Response,
        responses={
            200: {"content": {"application/octet-stream": {}}},
            **_errors(404, 422, 429),
        },
    )
    async def labels(request: Request, id: Id, settings: Settings) -> Response:
        """uint32, little endian, row by row; 0 is background."""
        stored = state.store.get(id)
        content = await state.others.run(
            request,
            lambda: views.labels(state.results.of(stored, settings).labels),
        )
        return Response(
            content,
            media_type="application/octet-stream",
            headers={"Content-Encoding": "deflate"},
        )

    @api.get(
        "/images/{id}/files/{format}",
        summary="A result as a file",
        response_class=Response,
        responses={
            200: {"content": {"application/octet-stream": {}}},
            **_errors(404, 422, 429),
        },
    )
    async def file(
        request: Request, id: Id, format: str, settings: Settings
    ) -> Response:
        """`format` is one of /api/about."""
        _check_formats([format])
        stored = state.store.get(id)
        made = await state.others.run(
            request,
            lambda: downloads.one(
                (stored, state.results.of(stored, settings)), format
            ),
        )
        return Response(
            made.content,
            media_type="application/octet-stream",
            headers=_named(made.name),
        )

    @api.get(
        "/files",
        summary="Results of several images: a zip, or one table for all",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"application/octet-stream": {}}},
            **_errors(404, 422, 429),
        },
    )
    async def archive(
        request: Request,
        id: Annotated[
            list[str], Query(description="Of images.", max_length=_MAX_IDS)
        ],
        settings: Settings,
        format: Annotated[
            list[str] | None, Query(description="Of /api/about.")
        ] = None,
    ) -> StreamingResponse:
        names = format or ["csv", "labels", "overlay"]
        _check_formats(names)
        found = [state.store.get(each) for each in dict.fromkeys(id)]

        def pairs() -> Any:
            for stored in found:
                state.others.check()
                yield stored, state.results.of(stored, settings)

        name, packed = await state.others.run(
            request, lambda: downloads.several(pairs(), names)
        )
        return StreamingResponse(
            downloads.chunks(packed),
            media_type="application/octet-stream",
            headers=_named(name),
        )

    @api.delete(
        "/images/{id}",
        status_code=204,
        summary="Forget an image",
        responses=_errors(404),
    )
    async def remove(id: Id) -> None:
        state.store.remove(id)
        state.results.forget(id)

    return api


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
    )
    app.include_router(_api(state))

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
        f"{name} is a stack of {sizes}: choose the plane to segment.",
        choose=error.sizes,
    )


def _invalid(error: RequestValidationError) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return guard.error(422, f"{where}: {first['msg']}.")


def _files() -> set[str]:
    return {path.name for path in PAGE.iterdir()}


def _drawn() -> bytes:
    pixels = synthetic.draw(_EXAMPLE, 3)["image"]
    return views.picture(pixels)


def _check_formats(names: Sequence[str]) -> None:
    known = downloads.available()
    for name in names:
        if name not in known:
            raise config_lib.UserError(
                config_lib.unknown("format", name, known)
            )


def _named(file: str) -> dict[str, str]:
    quoted = parse.quote(file)
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quoted}"}
