"""A page about a data set: what is in it, what is wrong with it, with pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from ..data.dataset import DetectionDataset
from ..data.examine.examination import Examination
from ..data.examine.findings import SEVERITIES, Example, Finding
from ..data.examine.objects import class_counts
from ..images.read import read_resized
from ..predict.draw import TILE, draw_detections
from ..results.named import Detection
from .html import page, picture, row, text
from .pictures import objects_of, tile_size

SAMPLED = 12  # pictures of each split
MOST_DRAWN = 300  # boxes of a picture


def data_page(result: Examination) -> str:
    """The page as HTML."""
    return page(str(result.data), "".join(_parts(result)))


def _parts(result: Examination) -> Iterable[str]:
    yield f"<h1>{text(result.data)}</h1><p>{text(result.format)}, {text(result.task)}. {_verdict(result)}</p>"
    yield _splits(result)
    yield _recommended(result)
    for severity, meaning in SEVERITIES.items():
        own = [finding for finding in result.findings if finding.severity == severity]
        if own:
            yield f"<h2>{text(meaning.capitalize())}</h2>"
        for finding in own:
            yield _finding(result, finding)
    yield _classes(result)
    for split, data in result.sets.items():
        yield f"<h2>Samples{f' of {text(split)}' if split else ''}</h2>{_samples(data)}"


def _verdict(result: Examination) -> str:
    if not result.findings:
        return '<span class="badge fine">nothing is wrong</span>'
    counts = {severity: sum(f.severity == severity for f in result.findings) for severity in SEVERITIES}
    return " ".join(
        f'<span class="badge {severity}">{count}</span> {text(SEVERITIES[severity])}'
        for severity, count in counts.items()
        if count
    )


def _splits(result: Examination) -> str:
    rows = [row(("split", "images", "objects", "most in an image"), "th")]
    for split, data in result.sets.items():
        objects = data.objects_per_image()
        rows.append(row((split or "all", len(data), int(objects.sum()), int(objects.max(initial=0)))))
    notes = "".join(f"<p>{text(note)}</p>" for data in result.sets.values() for note in data.notes)
    return f"<table>{''.join(rows)}</table>{notes}"


def _recommended(result: Examination) -> str:
    advice = result.advice
    if advice is None:
        return ""
    return (
        f"<p>Recommended: <code>--image_size {advice.image_size}</code> with <code>--model.output_stride "
        f"{advice.output_stride}</code> ({text(advice.image_size_reason)}), and <code>--model.num_queries {advice.num_queries}</code> ({text(advice.num_queries_reason)}).</p>"
    )


def _classes(result: Examination) -> str:
    if not result.sets:
        return ""
    counts = [dict(zip(data.category_names, class_counts(data).tolist(), strict=True)) for data in result.sets.values()]
    names = dict.fromkeys(name for own in counts for name in own)
    most = max((max(own.values(), default=0) for own in counts), default=0)
    rows = [row(("class", *(split or "objects" for split in result.sets), ""), "th")]
    for name in names:
        length = 12 * max(own.get(name, 0) for own in counts) / max(most, 1)
        bar = f'<td><span class="bar" style="width:{length:.2f}rem"></span></td></tr>'
        rows.append(row((name, *(own.get(name, "–") for own in counts))).removesuffix("</tr>") + bar)
    return f"<h2>Classes</h2><table>{''.join(rows)}</table>"


def _finding(result: Examination, finding: Finding) -> str:
    of = f" of {finding.of:,}" if finding.of is not None else ""
    split = f"{text(finding.split)}: " if finding.split else ""
    rule = f'<p class="rule">{text(finding.detail)}</p>' if finding.detail else ""
    tiles, words = [], []
    for example in finding.examples:
        data = result.sets.get(example.split)
        picture = None if data is None or example.image < 0 else _picture_of(data, example.image, example.rows)
        if picture is None:
            words.append(f"<li>{text(example)}</li>")
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
        f'<section id="{text(finding.name)}-{text(finding.split)}"><h3><span class="badge {finding.severity}">'
        f"{finding.count:,}{of}</span> {split}{text(finding.what)}</h3>{rule}"
        f'<p class="cure">→ {text(finding.cure)}</p>{sheet}{listed}</section>'
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


def _tile(image: Image.Image, example: Example) -> str:
    return f"<figure>{picture(image, example.file_name)}<figcaption>{text(example)}</figcaption></figure>"
