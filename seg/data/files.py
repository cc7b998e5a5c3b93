"""The files of a data set, the same for a folder and for a zip.

Names are relative and written with "/". Hidden files, and what macOS and
Windows leave behind, do not exist. A zip is never unpacked.
"""

import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from typing import Protocol

from seg import config, images
from seg.images import read

_LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")


class Tree(Protocol):
    """A folder or a zip.

    names: of all files, sorted. folders: of all folders, also empty ones.
    """

    names: list[str]
    folders: set[str]

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises ImageError."""

    def size(self, name: str) -> int:
        """Bytes of a file. Raises ImageError."""

    def crc(self, name: str) -> int:
        """CRC-32 of a file's bytes. Raises ImageError."""

    def version(self, name: str) -> int:
        """Another number once a file is written anew. Raises ImageError."""


class Folder:
    """A folder on disk."""

    def __init__(self, root: pathlib.Path):
        self._root = root
        self.names: list[str] = []
        self.folders: set[str] = set()
        seen = set()
        for folder, inner, files in os.walk(root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link to a folder above itself
                inner.clear()
                continue
            seen.add(real)
            inner[:] = [name for name in inner if not _hidden(name)]
            here = pathlib.Path(folder).relative_to(root)
            self.folders.add(here.as_posix())
            self.names += [
                (here / name).as_posix() for name in files if not _hidden(name)
            ]
        self.names.sort()

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise images.ImageError(f"{name}: {error.strerror}") from error

    def size(self, name: str) -> int:
        return self._status(name).st_size

    def crc(self, name: str) -> int:
        return zlib.crc32(self.read(name))

    def version(self, name: str) -> int:
        return self._status(name).st_mtime_ns

    def _status(self, name: str) -> os.stat_result:
        try:
            return (self._root / name).stat()
        except OSError as error:  # a link to nowhere, say
            raise images.ImageError(f"{name}: {error.strerror}") from error


class Zip:
    """A zip file, read in place."""

    def __init__(self, path: pathlib.Path):
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise config.UserError(
                f"data.path={path}: not a whole zip ({error}); download it "
                "again"
            ) from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self.folders = {"."}
        for member in self._zip.infolist():
            parts = pathlib.PurePosixPath(member.filename.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                raise config.UserError(
                    f"data.path={path}: names a file outside itself "
                    f"({member.filename!r}); do not use this zip"
                )
            if any(map(_hidden, parts.parts)):
                continue
            self.folders |= {parent.as_posix() for parent in parts.parents}
            if member.is_dir():
                self.folders.add(parts.as_posix())
            else:
                self._members[parts.as_posix()] = member
        self.names = sorted(self._members)

    def read(self, name: str) -> bytes:
        member = self._members[name]
        size, packed = member.file_size, member.compress_size
        if size > read.MAX_BYTES and size > read.MAX_RATIO * packed:
            raise images.ImageError(
                f"{name}: {packed / 1e3:.0f} kB in the zip that declare "
                f"{size / 1e6:.0f} MB, refused as a bomb; remove it"
            )
        try:
            return self._zip.read(member)
        # RuntimeError: encrypted; NotImplementedError: an exotic compression
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise images.ImageError(
                f"{name}: corrupt in the zip ({error}); download it again"
            ) from error

    def size(self, name: str) -> int:
        return self._members[name].file_size

    def crc(self, name: str) -> int:
        return self._members[name].CRC

    def version(self, name: str) -> int:
        return self.crc(name)


def open_tree(path: str) -> Tree:
    """Opens data.path. Raises UserError where it is neither folder nor zip."""
    if not path:
        raise config.UserError(
            "data.path is empty; give the folder or the zip with the images"
        )
    root = pathlib.Path(path)
    if root.is_dir():
        return Folder(root)
    if root.is_file():
        return Zip(root)
    raise config.UserError(
        f"data.path={path} does not exist; give a folder or a zip"
    )


def digest(
    tree: Tree,
    advance: Callable[[], None] = lambda: None,
    also: tuple[str, ...] = (),
) -> str:
    """sha256 over the name, the size and the CRC-32 of every image file.

    It depends on names and contents alone: a copy, an unpacked zip and its zip
    have the same digest; times, and files that are no images, do not count.

    advance: called after each file. also: endings of more files that count.
    """

    def mark(name: str) -> int:
        found = tree.crc(name)
        advance()
        return found

    return _sha256(tree, mark, also)


def stamp(tree: Tree, also: tuple[str, ...] = ()) -> str:
    """As `digest`, with the time of each file in place of its content.

    Equal stamps of a folder mean that nobody has written to it; they are
    found without reading a file.
    """
    return _sha256(tree, tree.version, also)


def read_of(tree: Tree, also: tuple[str, ...] = ()) -> list[str]:
    """Names of the images, and of the files with one of these endings."""
    endings = (*read.SUFFIXES, *also)
    return [name for name in tree.names if name.lower().endswith(endings)]


def _sha256(
    tree: Tree, mark: Callable[[str], int], also: tuple[str, ...]
) -> str:
    total = hashlib.sha256()
    for name in read_of(tree, also):
        line = f"{name}\0{tree.size(name)}\0{mark(name)}\n"
        total.update(line.encode())
    return total.hexdigest()


def is_image(name: str) -> bool:
    """Whether a name is that of an image which `seg.images.read` reads."""
    return name.lower().endswith(read.SUFFIXES)


def _hidden(name: str) -> bool:
    return name in _LITTER or (name.startswith(".") and name not in (".", ".."))
