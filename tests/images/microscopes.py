"""Writes files as microscopes do: Leica LIF and Nikon ND2.

No library writes these, so here is the least of each format that the readers of
both (liffile, nd2) take: one series or position after another, its planes not
compressed, and what is said of channels and pixel sizes.
"""

import pathlib
import struct
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import numpy as np

_LIF_AXES = {"X": 1, "Y": 2, "Z": 3, "T": 4}  # DimID
_ND2_LOOPS = {"T": 1, "P": 2, "Z": 4}  # eType
_ND2_MAGIC = 0x0ABECEDA
_ND2_PAGE = 4096


def write_lif(
    path: pathlib.Path,
    series: Mapping[str, np.ndarray],
    channels: Sequence[str],
    pixel_size: float,
    axes: str = "TZCYX",
) -> pathlib.Path:
    """Writes series by name, each uint8 or uint16.

    channels: names of their LUTs; pixel_size: um; axes: theirs, colours being
    last, as C.
    """
    root = ElementTree.Element("LMSDataContainerHeader", Version="2")
    project = ElementTree.SubElement(root, "Element", Name="project")
    ElementTree.SubElement(project, "Memory", Size="0", MemoryBlockID="M")
    children = ElementTree.SubElement(project, "Children")
    blocks = [("M", b"")]
    for i, (name, pixels) in enumerate(series.items()):
        element = ElementTree.SubElement(children, "Element", Name=name)
        ElementTree.SubElement(
            element, "Memory", Size=str(pixels.nbytes), MemoryBlockID=f"M{i}"
        )
        _lif_about(element, pixels, channels, pixel_size, axes)
        blocks.append((f"M{i}", pixels.tobytes()))
    said = ElementTree.tostring(root, encoding="unicode")
    text = said.encode("utf-16-le")
    parts = [struct.pack("<IIBI", 0x70, len(text) + 5, 0x2A, len(said)), text]
    for name, content in blocks:
        wide = name.encode("utf-16-le")
        size = struct.calcsize("<BQBI") + len(wide)
        parts.append(
            struct.pack(
                "<IIBQBI", 0x70, size, 0x2A, len(content), 0x2A, len(name)
            )
        )
        parts += wide, content
    path.write_bytes(b"".join(parts))
    return path


def _lif_about(
    element: ElementTree.Element,
    pixels: np.ndarray,
    channels: Sequence[str],
    pixel_size: float,
    axes: str,
) -> None:
    data = ElementTree.SubElement(element, "Data")
    image = ElementTree.SubElement(data, "Image")
    about = ElementTree.SubElement(image, "ImageDescription")
    listed = ElementTree.SubElement(about, "Channels")
    sizes = [pixels.itemsize, *pixels.shape[:0:-1]]
    steps = dict(zip(axes, np.cumprod(sizes)[::-1], strict=True))
    for i, name in enumerate(channels):
        ElementTree.SubElement(
            listed, "ChannelDescription", DataType="0", ChannelTag="0",
            Resolution=str(8 * pixels.itemsize), NameOfMeasuredQuantity="",
            Min="0", Max="1", Unit="", LUTName=name, IsLUTInverted="0",
            BytesInc=str(i * steps["C"]), BitInc="0",
        )  # fmt: skip
    listed = ElementTree.SubElement(about, "Dimensions")
    for axis, number in _LIF_AXES.items():
        n = pixels.shape[axes.index(axis)]
        ElementTree.SubElement(
            listed, "DimensionDescription", DimID=str(number),
            NumberOfElements=str(n), Origin="0",
            Length=str((n - 1) * pixel_size * 1e-6),
            Unit="s" if axis == "T" else "m",
            BytesInc=str(steps[axis]), BitInc="0",
        )  # fmt: skip


def write_nd2(
    path: pathlib.Path,
    pixels: np.ndarray,
    axes: str,
    channels: Sequence[str],
    pixel_size: float,
) -> pathlib.Path:
    """Writes uint8 or uint16 [..., Y, X, C], of a colour image [..., Y, X, 3].

    axes: letters of the first axes, some of P, T and Z. channels: names, one
    of a colour image; pixel_size: um.
    """
    *loops, height, width, n = pixels.shape
    bits = 8 * pixels.itemsize
    frames = pixels.reshape(-1, height, width, n)
    said = {
        "ImageAttributes!": {
            "uiWidth": width, "uiWidthBytes": width * n * pixels.itemsize,
            "uiHeight": height, "uiComp": n, "uiBpcInMemory": bits,
            "uiBpcSignificant": bits, "uiSequenceCount": len(frames),
            "eCompression": 2,
        },
        "ImageMetadataSeq|0!": {
            "bCalibrated": True, "dCalibration": pixel_size,
            "sPicturePlanes": {
                "uiCount": len(channels), "uiCompCount": n,
                "sPlaneNew": {
                    f"a{i}": {
                        "sDescription": name,
                        "uiCompCount": n // len(channels),
                        "uiSampleIndex": i,
                        "pFluorescentProbe": {"m_sName": name},
                    }
                    for i, name in enumerate(channels)
                },
            },
        },
    }  # fmt: skip
    if loops:
        said["ImageMetadata!"] = _nd2_loops([*zip(axes, loops, strict=True)])
    chunks = {name: _nd2_xml(tree) for name, tree in said.items()}
    times = np.arange(len(frames), dtype=float)
    chunks["CustomData|AcqTimesCache!"] = times.tobytes()
    for i, frame in enumerate(frames):  # after 8 bytes, its time
        chunks[f"ImageDataSeq|{i}!"] = struct.pack("<d", i) + frame.tobytes()
    _nd2_write(path, chunks)
    return path


def _nd2_loops(loops: list[tuple[str, int]]) -> dict:
    (axis, n), *inner = loops
    numbers = {"uiCount": n, "dStart": 0.0, "dPeriod": 1.0, "dDuration": 1.0}
    if axis == "Z":
        numbers = {"uiCount": n, "dZLow": 0.0, "dZHigh": 1.0, "dZStep": 1.0}
    if axis == "P":
        places = {f"p{i}": {"dPosX": 100.0 * i, "dPosY": 0.0} for i in range(n)}
        numbers = {"uiCount": n, "Points": places}
    found = {"eType": _ND2_LOOPS[axis], "uLoopPars": numbers}
    if inner:
        found["ppNextLevelEx"] = {"next": _nd2_loops(inner)}
    return found


def _nd2_xml(tree: dict) -> bytes:
    root = ElementTree.Element("variant")
    _nd2_grow(ElementTree.SubElement(root, "no_name"), tree)
    return ElementTree.tostring(root)


def _nd2_grow(parent: ElementTree.Element, tree: dict) -> None:
    kinds = {
        bool: "bool", int: "lx_uint32", float: "double", str: "CLxStringW",
    }  # fmt: skip
    for name, value in tree.items():
        child = ElementTree.SubElement(parent, name)
        if isinstance(value, dict):
            _nd2_grow(child, value)
        else:
            child.set("runtype", kinds[type(value)])
            child.set("value", str(value))


def _nd2_write(path: pathlib.Path, chunks: Mapping[str, bytes]) -> None:
    """Chunks, each after a page with its name, and last where they are."""
    content, where = bytearray(), bytearray()

    def add(name: bytes, data: bytes, room: int) -> int:
        at = len(content)
        content.extend(struct.pack("<IIQ", _ND2_MAGIC, room, len(data)))
        content.extend(name.ljust(room, b"\0") + data)
        return at

    add(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver2.1".ljust(64, b"\0"), 32)
    for name, data in chunks.items():
        at = add(name.encode(), data, _ND2_PAGE - 24)
        where += name.encode() + struct.pack("<QQ", at, len(data))
    signature = b"ND2 CHUNK MAP SIGNATURE 0000001!"
    last = signature + struct.pack("<Q", len(content))
    add(b"ND2 FILEMAP SIGNATURE NAME 0001!", bytes(where) + last, 32)
    path.write_bytes(content)
