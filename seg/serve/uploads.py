"""A request's image: its bytes, a name for people, its pixels."""

import contextlib
import io
import math
import re

import numpy as np
from starlette import formparsers
from starlette.datastructures import UploadFile
from starlette.requests import Request

from seg import images
from seg.images import about, read
from seg.serve import guard

MAX_PIXELS = 2**26  # 8192 x 8192; the map of one takes 256 MB
MAX_BYTES = 2**29  # of their channels together, as they are decoded
_MAGIC = 32  # bytes that tell the type of a file
_LONGEST = 120  # characters of a name


async def content(request: Request) -> tuple[bytes, str]:
    """(bytes, name) of the file in a request, raw or as a form's `file`.

    Raises Refused where there is none, or where its first bytes are no
    image's: all of it is read first, for the client to see the answer.
    """
    kind = request.headers.get("content-type", "")
    given = request.query_params.get("name", "")
    if kind.startswith("multipart/form-data"):
        found, of_form = await _of_form(request)
        given = given or of_form
    else:
        parts = bytearray()
        async for part in request.stream():
            if len(parts) < _MAGIC or _is_image(parts):
                parts += part
        found = bytes(parts)
    name = called(given)
    if not found:
        raise guard.Refused(400, f"{name} is empty; copy it again.")
    if not _is_image(found):
        raise guard.Refused(
            415,
            f"{name} is not an image that can be opened here: inside it is "
            "neither PNG, JPEG, TIFF, WebP nor BMP, whatever its name says. "
            "Save it as TIFF or PNG in the program that made it.",
        )
    return found, name


class _InMemory(formparsers.MultiPartParser):
    """Keeps files in memory, which else spills over 1 MB into /tmp.

    How much comes at all is the guard's to say. 0 = without a limit; older
    Starlette has the second name.
    """

    spool_max_size = max_file_size = 0


async def _of_form(request: Request) -> tuple[bytes, str]:
    """(bytes, name) of a form's `file`; raises Refused."""
    try:
        async with contextlib.aclosing(request.stream()) as stream:
            parser = _InMemory(
                request.headers, stream, max_files=1, max_fields=8
            )
            form = await parser.parse()
    except formparsers.MultiPartException as error:
        sentence = error.message.rstrip(".")
        raise guard.Refused(400, f"{sentence}.") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise guard.Refused(
                400, "The form has no file in its field `file`."
            )
        return await file.read(), file.filename or ""
    finally:
        await form.close()


def _is_image(start: bytes | bytearray) -> bool:
    try:
        read.is_tiff(io.BytesIO(start[:_MAGIC]), "")
    except images.ImageError:
        return False
    return True


def called(given: str) -> str:
    """A name for people of what a client called its file: no path, short."""
    name = re.split(r"[/\\]", given)[-1]
    name = "".join(c for c in name if c.isprintable()).strip()
    if len(name) > _LONGEST:
        stem, dot, suffix = name.rpartition(".")
        keep = len(suffix) < 8 and dot
        end = dot + suffix if keep else ""
        name = (stem if keep else name)[: _LONGEST - len(end)] + end
    return name if name.strip(".") else "image"


def pixels(
    content: bytes, name: str, select: str, n_channels: int
) -> np.ndarray:
    """The pixels [H, W, C] of a file; raises ImageError.

    Its header alone tells that it is too large. n_channels: of the model; what
    has others, by name, is a stack of them.
    """
    try:
        found = _decoded(content, name, select)
    except images.StackError as error:
        sizes = error.sizes | _channels(content, n_channels)
        raise images.StackError(str(error), sizes) from error
    fits = read.fits(found.shape[2], n_channels)
    if sizes := {} if fits else _channels(content, n_channels):
        raise images.StackError(f"{name}: other channels", sizes)
    return found


def _decoded(content: bytes, name: str, select: str) -> np.ndarray:
    header = read.read_header(content, name=name, select=select)
    height, width = header.shape
    if math.prod((height, width)) > MAX_PIXELS:
        raise images.TooLargeError(
            f"{name}: {height} x {width} px are more than the "
            f"{MAX_PIXELS / 1e6:.0f} megapixels that are taken here; cut it, "
            "or use `seg predict`, which takes images of any size"
        )
    if header.n_bytes > MAX_BYTES:
        raise images.TooLargeError(
            f"{name}: {header.n_bytes / 1e6:.0f} MB of pixels in all channels "
            f"are more than the {MAX_BYTES / 1e6:.0f} MB that are taken here; "
            "choose channels, as select=C=0, or cut it, or use `seg predict`"
        )
    return read.read_image(content, name=name, select=select)


def _channels(content: bytes, n: int) -> dict[str, int]:
    """The channels of a file that does not fit a model of n, by their axis."""
    told = about.read_about(content)
    lengths = dict(zip(told.letters, told.lengths, strict=True))
    n_stored = lengths.get("C", n)
    return {} if read.fits(n_stored, n) else {"C": n_stored}


def pixel_size(content: bytes, name: str) -> tuple[float, float] | None:
    """(row, column) in micrometres, as a file says; None = it does not.

    Raises ImageError.
    """
    try:
        return about.read_about(content).pixel_size
    except images.ImageError as error:  # which does not know its name
        text = str(error).removeprefix("image: ")
        raise images.ImageError(f"{name}: {text}") from error
