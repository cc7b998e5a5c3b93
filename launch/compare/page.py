"""A comparison as one page: for a browser, and MLflow's artifacts.

It is put together from a table, notes, pictures, and what runs make of the
same images, side by side. Everything is inside the file; it needs neither
scripts nor a network.
"""

import base64
import html
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from seg.images import write

_SIDE = 1000  # px, of an overlay
_MOST = 6  # runs that are shown side by side
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto;
       max-width: 90rem; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d8dee6;
         text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #1c2430; }
.best tbody tr:first-child td { font-weight: 600; background: #eef6f1; }
.notes { margin: 1rem 0; padding-left: 1.2rem; color: #6b4a00;
         overflow-wrap: anywhere; }
.wide { overflow-x: auto; } img { max-width: 100%; height: auto; }
.row { display: grid; gap: .8rem; margin-bottom: 1.2rem;
       grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-size: .85rem; color: #4a5565;
             overflow-wrap: anywhere; }
"""


def make(path: pathlib.Path, title: str, parts: Iterable[str]) -> None:
    """Writes the page; parts: what the functions below give."""
    title = html.escape(title)
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>"
        + "\n".join([f"<h1>{title}</h1>", *parts])
    )
    with write.whole(path) as part:
        part.write_text(text, encoding="utf-8")


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, best: bool = True
) -> str:
    """Cells, as text; best: whether the first row is."""

    def line(tag: str, cells: Sequence[str]) -> str:
        inside = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
        return f"<tr>{inside}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return (
        f'<div class="wide"><table{" class=best" * best}><thead>'
        f"{line('th', header)}</thead><tbody>{body}</tbody></table></div>"
    )


def heading(text: str) -> str:
    """What the next parts are."""
    return f"<h2>{html.escape(text)}</h2>"


def notes(texts: Iterable[str]) -> str:
    """What the reader of the table must know; empty for none."""
    items = "\n".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return items and f'<ul class="notes">{items}</ul>'


def pictures(title: str, files: Iterable[pathlib.Path]) -> str:
    """PNGs beside each other, where there is room; empty without any."""
    shown = "\n".join(
        f'<figure><img alt="{html.escape(path.stem)}" src="{_png(path)}">'
        "</figure>"
        for path in files
    )
    return shown and f'{heading(title)}<div class="row">{shown}</div>'


def side_by_side(
    title: str, overlays: Mapping[str, Sequence[pathlib.Path]]
) -> str:
    """Of each image that all have, a row of what each made of it.

    overlays: of a run, files whose names tell which image they show; empty
    where there is no such image. The first six are shown.
    """
    shown = dict(list(overlays.items())[:_MOST])
    if not shown:
        return ""
    by_name = [{path.name: path for path in files} for files in shown.values()]
    parts = []
    for name in sorted(set.intersection(*map(set, by_name))):
        parts.append('<div class="row">')
        for run, files in zip(shown, by_name, strict=True):
            text = html.escape(run)
            parts.append(
                f'<figure><img alt="{text}" src="{_small(files[name])}">'
                f"<figcaption>{text}</figcaption></figure>"
            )
        parts.append("</div>")
    if not parts:
        return ""
    if len(overlays) > len(shown):
        title += f"; {len(shown)} of {len(overlays)}"
    return "\n".join([heading(title), *parts])


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
