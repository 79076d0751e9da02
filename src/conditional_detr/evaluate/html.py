"""How pages are written: one file of HTML that needs no network, light and dark, whose pictures are in it.

Names come from people's files, so everything that is text goes through `text`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from ..messages import printable

QUALITY = 82  # of JPEG

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
table { border-collapse: collapse; margin: .8rem 0; } td, th { padding: .15rem .9rem .15rem 0; text-align: left; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.badge { display: inline-block; border-radius: .3rem; padding: 0 .5rem; font-size: .8rem; font-weight: 600; color: #fff; }
.stops { background: #b42318; } .harms { background: #a15c00; } .know { background: #2a6f97; } .fine { background: #2e7d32; }
.cure { margin: .1rem 0; } .rule { opacity: .75; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: .8rem; margin: .6rem 0; align-items: start; }
figure { margin: 0; background: var(--soft); border-radius: .4rem; overflow: hidden; }
figure img { width: 100%; height: auto; display: block; } figcaption { padding: .3rem .5rem; font-size: .8rem; overflow-wrap: anywhere; }
ul.words { font-size: .85rem; overflow-wrap: anywhere; } .bar { background: #2a6f97; height: .7rem; display: inline-block; }
"""


def text(value: object) -> str:
    """Text that stands for itself, whatever it is."""
    return escape(printable(str(value)), quote=True)


def page(title: str, body: str, style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML.
        style: CSS beside that of every page.
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def row(cells: Sequence[str | int], tag: str = "td") -> str:
    """A row of a table; the first column is of names, the others of numbers."""
    texts = [f"{cell:,}" if isinstance(cell, int) else text(cell) for cell in cells]
    return (
        f"<tr><{tag}>{texts[0]}</{tag}>"
        + "".join(f"<{tag} class=number>{cell}</{tag}>" for cell in texts[1:])
        + "</tr>"
    )


def picture(image: Image.Image, words: str, over: str = "") -> str:
    """A picture as part of the page.

    Args:
        words: what it shows, for those who do not see it; plain text.
        over: HTML that lies on it.
    """
    content = io.BytesIO()
    image.convert("RGB").save(content, format="JPEG", quality=QUALITY)
    source = base64.b64encode(content.getvalue()).decode("ascii")
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img loading="lazy" {size} src="data:image/jpeg;base64,{source}" alt="{text(words)}">{over}'
