"""The comparison of a sweep as one page: for a browser, and MLflow's artifacts.

A table of the settings, the best first, their pictures, and what the best of
them make of the same images, side by side. Everything is inside the file; it
needs neither scripts nor a network.
"""

import base64
import html
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from seg.images import write

_SIDE = 640  # px, of an overlay
_MOST = 6  # settings that are shown side by side
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto;
       max-width: 76rem; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d8dee6;
         text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #1c2430; }
tbody tr:first-child td { font-weight: 600; background: #eef6f1; }
.wide { overflow-x: auto; } img { max-width: 100%; height: auto; }
.row { display: grid; gap: .8rem; margin-bottom: 1.2rem;
       grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-size: .85rem; color: #4a5565;
             overflow-wrap: anywhere; }
"""


def make(
    path: pathlib.Path,
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    pictures: Mapping[str, pathlib.Path],
    overlays: Mapping[str, Sequence[pathlib.Path]],
) -> None:
    """Writes the page.

    Parameters
    ----------
    header, rows : cells of the table, as text.
    pictures : of all settings, by title.
    overlays : of a setting, files whose names tell which image they show.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _table(header, rows)]
    for name, picture in pictures.items():
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(f'<img alt="{html.escape(name)}" src="{_png(picture)}">')
    parts += _side_by_side(overlays)
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        + "\n".join(parts)
    )
    with write.whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        inside = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
        return f"<tr>{inside}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return (
        f'<div class="wide"><table><thead>{line("th", header)}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _side_by_side(
    overlays: Mapping[str, Sequence[pathlib.Path]],
) -> list[str]:
    """Of each image that all have, a row of what each made of it."""
    shown = dict(list(overlays.items())[:_MOST])
    if not shown:
        return []
    by_name = [{path.name: path for path in files} for files in shown.values()]
    common = sorted(set.intersection(*(set(files) for files in by_name)))
    parts = []
    for name in common:
        parts.append('<div class="row">')
        for setting, files in zip(shown, by_name, strict=True):
            text = html.escape(setting)
            parts.append(
                f'<figure><img alt="{text}" src="{_small(files[name])}">'
                f"<figcaption>{text}</figcaption></figure>"
            )
        parts.append("</div>")
    if not parts:
        return []
    return ["<h2>The same images, the best settings first</h2>", *parts]


def _png(path: pathlib.Path) -> str:
    return f"data:image/png;base64,{_text(path.read_bytes())}"


def _small(path: pathlib.Path) -> str:
    with Image.open(path) as image:
        image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{_text(file.getvalue())}"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
