"""A page about a data set: what is in it, what is wrong with it, with pictures; one file that needs no network.

Names come from people's files, so everything that is text goes through `escape`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from ..data.dataset import DetectionDataset
from ..data.examine.examination import Examination
from ..data.examine.findings import SEVERITIES, Example, Finding
from ..data.examine.objects import class_counts
from ..images.read import read_resized
from ..messages import printable
from ..predict.draw import TILE, draw_detections
from ..results.named import Detection
from .pictures import objects_of, tile_size

SAMPLED = 12  # pictures of each split
MOST_DRAWN = 300  # boxes of a picture
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


def data_page(result: Examination) -> str:
    """The page as HTML."""
    return "".join(_parts(result))


def _parts(result: Examination) -> Iterable[str]:
    name = _text(result.data)
    yield f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
    yield f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
    yield f"<h1>{name}</h1><p>{_text(result.format)}, {_text(result.task)}. {_verdict(result)}</p>"
    yield _splits(result)
    yield _recommended(result)
    for severity, meaning in SEVERITIES.items():
        own = [finding for finding in result.findings if finding.severity == severity]
        if own:
            yield f"<h2>{_text(meaning.capitalize())}</h2>"
        for finding in own:
            yield _finding(result, finding)
    yield _classes(result)
    for split, data in result.sets.items():
        yield f"<h2>Samples{f' of {_text(split)}' if split else ''}</h2>{_samples(data)}"
    yield "</body></html>\n"


def _text(value: object) -> str:
    """Text that stands for itself, whatever it is."""
    return escape(printable(str(value)), quote=True)


def _verdict(result: Examination) -> str:
    if not result.findings:
        return '<span class="badge fine">nothing is wrong</span>'
    counts = {severity: sum(f.severity == severity for f in result.findings) for severity in SEVERITIES}
    return " ".join(
        f'<span class="badge {severity}">{count}</span> {_text(SEVERITIES[severity])}'
        for severity, count in counts.items()
        if count
    )


def _row(cells: Sequence[str | int], tag: str = "td") -> str:
    """A row of a table; the first column is of names, the others of numbers."""
    texts = [f"{cell:,}" if isinstance(cell, int) else _text(cell) for cell in cells]
    return (
        f"<tr><{tag}>{texts[0]}</{tag}>"
        + "".join(f"<{tag} class=number>{text}</{tag}>" for text in texts[1:])
        + "</tr>"
    )


def _splits(result: Examination) -> str:
    rows = [_row(("split", "images", "objects", "most in an image"), "th")]
    for split, data in result.sets.items():
        objects = data.objects_per_image()
        rows.append(_row((split or "all", len(data), int(objects.sum()), int(objects.max(initial=0)))))
    notes = "".join(f"<p>{_text(note)}</p>" for data in result.sets.values() for note in data.notes)
    return f"<table>{''.join(rows)}</table>{notes}"


def _recommended(result: Examination) -> str:
    advice = result.advice
    if advice is None:
        return ""
    return (
        f"<p>Recommended: <code>--image_size {advice.image_size}</code> with <code>--model.output_stride "
        f"{advice.output_stride}</code> ({_text(advice.image_size_reason)}), and <code>--model.num_queries {advice.num_queries}</code> ({_text(advice.num_queries_reason)}).</p>"
    )


def _classes(result: Examination) -> str:
    if not result.sets:
        return ""
    counts = [dict(zip(data.category_names, class_counts(data).tolist(), strict=True)) for data in result.sets.values()]
    names = dict.fromkeys(name for own in counts for name in own)
    most = max((max(own.values(), default=0) for own in counts), default=0)
    rows = [_row(("class", *(split or "objects" for split in result.sets), ""), "th")]
    for name in names:
        length = 12 * max(own.get(name, 0) for own in counts) / max(most, 1)
        bar = f'<td><span class="bar" style="width:{length:.2f}rem"></span></td></tr>'
        rows.append(_row((name, *(own.get(name, "–") for own in counts))).removesuffix("</tr>") + bar)
    return f"<h2>Classes</h2><table>{''.join(rows)}</table>"


def _finding(result: Examination, finding: Finding) -> str:
    of = f" of {finding.of:,}" if finding.of is not None else ""
    split = f"{_text(finding.split)}: " if finding.split else ""
    rule = f'<p class="rule">{_text(finding.detail)}</p>' if finding.detail else ""
    tiles, words = [], []
    for example in finding.examples:
        data = result.sets.get(example.split)
        picture = None if data is None or example.image < 0 else _picture_of(data, example.image, example.rows)
        if picture is None:
            words.append(f"<li>{_text(example)}</li>")
        else:
            tiles.append(_tile(picture, example))
        if picture is not None and example.like is not None:
            split_of, image = example.like
            other = result.sets[split_of]
            if (beside := _picture_of(other, image, ())) is not None:
                tiles.append(_tile(beside, Example(f"in {split_of or 'all'}", other.file_names[image])))
    sheet = f'<div class="sheet">{"".join(tiles)}</div>' if tiles else ""
    listed = f'<ul class="words">{"".join(words)}</ul>' if words else ""
    return (
        f'<section id="{_text(finding.name)}-{_text(finding.split)}"><h3><span class="badge {finding.severity}">'
        f"{finding.count:,}{of}</span> {split}{_text(finding.what)}</h3>{rule}"
        f'<p class="cure">→ {_text(finding.cure)}</p>{sheet}{listed}</section>'
    )


def _samples(data: DetectionDataset) -> str:
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), SAMPLED)).round().astype(int)).tolist()
    tiles = []
    for image in chosen:
        if (picture := _picture_of(data, image, ())) is not None:
            count = int(data.first[image + 1] - data.first[image])
            tiles.append(_tile(picture, Example(f"{count} objects", data.file_names[image])))
    return f'<div class="sheet">{"".join(tiles)}</div>'


def _picture_of(data: DetectionDataset, image: int, rows: Sequence[int]) -> Image.Image | None:
    """A picture with these boxes, or with all of its own, drawn; None where it cannot be read."""
    size = (int(data.sizes[image][0]), int(data.sizes[image][1]))
    try:
        pixels = read_resized(data.image_path(image), tile_size, expected=size)
    except (OSError, ValueError):
        return None
    objects = _objects(data, image, rows)
    # A label would hide the small box that is meant; the caption names its class.
    labels, width = (False, 3) if rows else (len(objects) <= 40, None)
    picture = draw_detections(pixels, objects, size=size, scores=False, labels=labels, line_width=width)
    picture.thumbnail((TILE, TILE))
    return picture


def _objects(data: DetectionDataset, image: int, rows: Sequence[int]) -> list[Detection]:
    own, first = objects_of(data, image), int(data.first[image])
    return [own[row - first] for row in rows] if rows else own[:MOST_DRAWN]


def _tile(picture: Image.Image, example: Example) -> str:
    content = io.BytesIO()
    picture.convert("RGB").save(content, format="JPEG", quality=QUALITY)
    source = base64.b64encode(content.getvalue()).decode("ascii")
    size = f'width="{picture.width}" height="{picture.height}"'
    return (
        f'<figure><img loading="lazy" {size} src="data:image/jpeg;base64,{source}" alt="{_text(example.file_name)}">'
        f"<figcaption>{_text(example)}</figcaption></figure>"
    )
