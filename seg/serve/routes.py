"""The API: what the page asks, and other programs may."""

import zlib
from collections.abc import Sequence
from typing import Annotated, Any
from urllib import parse

import fastapi
from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse

import seg
from seg import config as config_lib
from seg.data import synthetic
from seg.serve import answers, downloads, results, store, uploads, views
from seg.serve.state import Application

_MAX_IDS = 1000
_LARGEST = 1000  # micrometres a px
_USUAL = ("csv", "labels", "overlay")
_EXAMPLE = config_lib.Synthetic(
    kind="nuclei", height=512, width=640, diameter=34.0, n_objects=70
)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": answers.Error} for status in statuses}


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
    min_probability: Annotated[
        float | None,
        Query(
            description="Least probability of an object, 0 to 1, as the table "
            "has it.",
            ge=0,
            le=1,
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
    min_area_um2: Annotated[
        list[Annotated[float, Query(ge=0, allow_inf_nan=False)]] | None,
        Query(
            description="The same as min_area in square micrometres, which "
            "counts instead where the size of a pixel is known.",
        ),
    ] = None,
    pixel_size: Annotated[
        float | None,
        Query(
            description="Micrometres a px, of images whose file does not say.",
            gt=0,
            le=_LARGEST,
        ),
    ] = None,
) -> results.Settings:
    return results.Settings(
        threshold,
        tuple(min_area) if min_area else None,
        min_probability,
        separate,
        fill_holes,
        drop_border,
        tuple(min_area_um2) if min_area_um2 else None,
        pixel_size,
    )


Settings = Annotated[results.Settings, fastapi.Depends(_settings)]
Id = Annotated[str, fastapi.Path(description="Of an uploaded image.")]
Name = Annotated[str, fastapi.Path(description="A format of /api/about.")]
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


def api(state: Application) -> fastapi.APIRouter:
    """The routes below /api."""
    api = fastapi.APIRouter(prefix="/api", responses=_errors(401, 403, 422))

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
        responses=_errors(400, 408, 413, 415, 429),
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
        # what is wrong is told before the work, whatever the size will be
        settings.of(choice.config, (1.0, 1.0))
        with state.uploads.taken():
            content, called = await uploads.content(request)
            called = uploads.called(name) if name else called

            def segment() -> tuple[store.Stored, answers.Found]:
                n = choice.config.model.in_channels
                pixels = uploads.pixels(content, called, select, n)
                use = choice.predictor()
                size = use.pixel_size(uploads.pixel_size(content, called))
                channels = use.probabilities(pixels, None, settings.size(size))
                stored = store.Stored(called, choice, pixels, channels, size)
                predict = settings.on(stored)
                found = state.results.of(stored, settings)
                # here, as 50,000 objects take half a second
                return stored, answers.found(stored, found, predict)

            stored, answer = await state.network.run(request, segment)
        state.store.add(stored)
        return answer

    @api.get(
        "/images/{id}",
        summary="Find the objects again, by other settings",
        responses=_errors(404, 429),
    )
    async def result(
        request: Request, id: Id, settings: Settings
    ) -> answers.Found:
        """The network does not run again."""
        stored = state.store.get(id)
        predict = settings.on(stored)
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
            **_errors(404, 429),
        },
    )
    async def labels(request: Request, id: Id, settings: Settings) -> Response:
        """uint32, little endian, row by row; 0 is background."""
        stored = state.store.get(id)
        deflate = "deflate" in request.headers.get("accept-encoding", "")

        def content() -> bytes:
            found = views.labels(state.results.of(stored, settings).labels)
            return zlib.compress(found, 1) if deflate else found

        return Response(
            await state.others.run(request, content),
            media_type="application/octet-stream",
            headers={"Content-Encoding": "deflate"} if deflate else {},
        )

    @api.get(
        "/images/{id}/files/{format}",
        summary="A result as a file",
        response_class=Response,
        responses={
            200: {"content": {"application/octet-stream": {}}},
            **_errors(404, 429),
        },
    )
    async def file(
        request: Request, id: Id, format: Name, settings: Settings
    ) -> Response:
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
            **_errors(404, 429),
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
        names = [*dict.fromkeys(format or _USUAL)]
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

    return api


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
