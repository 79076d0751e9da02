"""The report as a page: one file that needs no network, readable in light and dark, by keyboard, and in print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluate.html import page, row, text
from . import charts
from .bootstrap import CONFIDENCE
from .errors import KINDS, SUSPECTS
from .figures import Analysis, Report
from .pictures import MOST_FOUND, Pictures, said_of
from .thresholds import OperatingPoint

WORST = 4  # images of each kind of mistake
DRAWN_CLASSES = 10  # curves of a chart
MATRIX_CLASSES = 30  # classes of a confusion matrix that is still read as one
HEADLINES = {
    "detection": ("AP", "AP50", "AP75", "AR_100"),
    "instance": ("mask_AP", "mask_AP50", "AP", "AP50"),
    "panoptic": ("PQ", "SQ", "RQ", "mask_AP", "AP"),
}
STYLE = """
body { max-width: 1180px; scroll-behavior: smooth; } h2 { scroll-margin-top: 3.4rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
nav { position: sticky; top: 0; z-index: 2; background: Canvas; border-bottom: 1px solid var(--line); padding: .45rem 0; margin: .8rem 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem; }
nav a, a { color: LinkText; } a:focus-visible, summary:focus-visible, .wide:focus-visible { outline: 2px solid #3b7dd8; outline-offset: 2px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 1rem 0; }
.card { background: var(--soft); border-radius: .5rem; padding: .7rem .9rem; } .card b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { font-size: .8rem; opacity: .8; display: block; } .note { font-size: .88rem; opacity: .8; max-width: 75ch; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; } .charts > * { flex: 1 1 360px; min-width: 0; max-width: 560px; } .charts > .whole { max-width: none; flex-basis: 100%; }
.charts svg { width: 100%; height: auto; } h3.kind { text-transform: none; }
.legend { list-style: none; padding: 0; margin: .2rem 0; font-size: .85rem; columns: 2; } .legend li { overflow-wrap: anywhere; break-inside: avoid; } .swatch { display: inline-block; width: 1.1rem; height: .25rem; margin-right: .5rem; vertical-align: middle; }
.wide { overflow-x: auto; } .matrix td, .matrix th { padding: .2rem .5rem; } .matrix td.cell { text-align: right; font-variant-numeric: tabular-nums; } .matrix th { font-weight: 500; max-width: 12rem; overflow-wrap: anywhere; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 1rem; align-items: start; } .pair { display: flex; gap: 2px; } .pair .panel { flex: 1 1 0; min-width: 0; }
.panel { position: relative; } .panel svg { position: absolute; inset: 0; width: 100%; height: 100%; } .panel rect { fill: none; stroke: #ffe600; stroke-width: 2.5; vector-effect: non-scaling-stroke; stroke-dasharray: 6 4; pointer-events: all; } .panel rect.under { stroke: #000; stroke-dasharray: none; stroke-width: 3.5; opacity: .75; }
.side { position: absolute; left: .3rem; bottom: .3rem; background: #000a; color: #fff; font-size: .7rem; padding: 0 .35rem; border-radius: .2rem; } summary { cursor: pointer; margin: .5rem 0; }
td.number { white-space: nowrap; } td.better { color: #2e7d32; font-weight: 600; } td.worse { color: #c62828; font-weight: 600; } @media (prefers-color-scheme: dark) { td.number { white-space: nowrap; } td.better { color: #81c784; } td.worse { color: #ef9a9a; } }
.skip { position: absolute; left: -9999px; } .skip:focus { position: static; } @media print { nav { display: none; } h2, figure { break-inside: avoid; } }
"""


def report_page(report: Report) -> str:
    """The page as HTML."""
    sections = [(name, title, body) for name, title, body in _sections(report) if body]
    title = f"{report.model['name']} on {report.data['name']}"
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    parts = [
        f'<a class="skip" href="#figures">Skip to the figures</a><header><h1>{text(title)}</h1>{_introduction(report)}</header>'
        f'<nav aria-label="Sections">{links}</nav><main>'
    ]
    parts += [
        f'<section aria-labelledby="{name}"><h2 id="{name}">{heading}</h2>{body}</section>'
        for name, heading, body in sections
    ]
    return page(title, "".join(parts) + "</main>", STYLE)


def _sections(report: Report) -> Iterable[tuple[str, str, str]]:
    """Id, heading and body of each."""
    shown = Pictures(report.dataset, report.detections)
    yield "figures", "Figures", _figures(report)
    yield "comparison", "Comparison", _comparison(report.comparison)
    yield "classes", "Classes", _classes(report)
    yield "mistakes", "Mistakes", _mistakes(report)
    yield "curves", "Precision and recall", _of_kinds(report, _curves)
    yield "thresholds", "Thresholds", _of_kinds(report, _thresholds)
    yield "calibration", "Calibration", _of_kinds(report, _calibration)
    yield "confusion", "Confusion", _confusion(report)
    yield "sizes", "Sizes and crowds", _sizes(report)
    yield "worst", "Worst images", _worst(report, shown)
    yield "labels", "Suspected labels", _suspects(report, shown)
    yield "learning", "More data", _learning(report.learning_curve)
    yield "run", "Training", _run(report.run)
    yield "model", "Model and speed", _model(report)


def _introduction(report: Report) -> str:
    data = report.data
    return (
        f"<p>{data['images']:,} images with {data['objects']:,} objects of {data['classes']:,} classes, {text(data['annotations'])} "
        f"({text(data['format'])}). {text(report.metrics.describe())}.</p>"
    )


def figure_text(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or value < 0 else f"{value:.{digits}f}"


def threshold_text(value: float) -> str:
    """Rounded down, so that the detection at which it was found is still kept."""
    return "–" if value < 0 else f"{math.floor(value * 1000) / 1000:.3f}"


def _between(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="table"><table>{row(head, "th")}'
        f"{''.join(row(cells) for cells in rows)}</table></div>"
    )


def _figures(report: Report) -> str:
    bounds = report.intervals()
    cards = "".join(
        f'<div class="card"><span>{name.replace("_", " ")}</span><b>{figure_text(report.metrics.summary[name])}</b>'
        f"<span>{_between(bounds.get(name))}</span></div>"
        for name in HEADLINES[report.task]
    )
    rows = [
        (name.replace("_", " "), figure_text(value), _between(bounds.get(name)))
        for name, value in report.metrics.summary.items()
    ]
    note = (
        f"{CONFIDENCE:.0%} intervals from {report.resamples:,} bootstrap resamples of the images: how far the figure would "
        "move with other images of the same kind. Training again with another seed moves it, too, and is not in them."
    )
    if report.task == "panoptic":
        note += " PQ, SQ and RQ have none."
    table = _table(("figure", "value", f"{CONFIDENCE:.0%} interval"), rows)
    return f'<div class="cards">{cards}</div><p class="note">{note}</p><details><summary>All figures</summary>{table}</details>'


def _comparison(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""

    def cells(name: str, one: Mapping[str, Any]) -> str:
        says = "better" if one["clear"] and one["difference"] > 0 else "worse" if one["clear"] else ""
        words = says or ("cannot be told from chance" if one["low"] is not None else "–")
        bounds = "–" if one["low"] is None else f"{one['low']:+.3f} to {one['high']:+.3f}"
        numbers = (
            figure_text(one["own"]),
            figure_text(one["other"]),
            "–" if one["difference"] is None else f"{one['difference']:+.3f}",
            bounds,
        )
        return (
            f"<tr><td>{text(name)}</td>"
            + "".join(f"<td class=number>{cell}</td>" for cell in numbers)
            + f'<td class="{says}">{words}</td></tr>'
        )

    head = row(("", "this model", "the other", "difference", f"{CONFIDENCE:.0%} interval", ""), "th")
    figures = "".join(cells(name.replace("_", " "), one) for name, one in found["figures"].items())
    classes = "".join(cells(name, one) for name, one in found["per_class"].items())
    return (
        f"<p>Against <b>{text(found['model'])}</b>. {text(found['verdict'])}</p>"
        f'<div class="wide"><table>{head}{figures}</table></div><h3>{text(found["class_figure"].replace("_", " "))} of each class</h3>'
        f'<div class="wide"><table>{head}{classes}</table></div><p class="note">Both models on the same '
        f"{found['resamples']:,} resamples of the images (paired bootstrap). A difference is called better or worse where its "
        "interval leaves out 0. Of many classes, one in twenty will do so by chance.</p>"
    )


def _classes(report: Report) -> str:
    bounds = report.class_intervals()
    columns = list(dict.fromkeys(c for own in report.metrics.per_class.values() for c in own if c != "objects"))
    main = "mask_AP" if "mask_AP" in columns else "AP"
    head = [
        "class",
        "objects",
        *(c.replace("_", " ") for c in columns),
        f"{main.replace('_', ' ')} {CONFIDENCE:.0%} interval",
    ]
    rows: list[Sequence[str | int]] = []
    for name, own in sorted(report.metrics.per_class.items(), key=lambda pair: -pair[1].get(columns[0], -1.0)):
        figures = [figure_text(own.get(column, -1.0)) for column in columns]
        rows.append((name, int(own["objects"]), *figures, _between(bounds.get(name, {}).get(main))))
    return _table(head, rows)


def _of_kinds(report: Report, part: Any) -> str:
    """A section for boxes, and where there are masks one for masks."""
    if len(report.kinds) == 1:
        return part(report.kinds["boxes"])
    return "".join(f"<h3>{name.capitalize()}</h3>{part(kind)}" for name, kind in report.kinds.items())


def _mistakes(report: Report) -> str:
    parts = []
    for name, kind in report.kinds.items():
        gains = {mistake: own["gain"] for mistake, own in kind.tide.items()}
        order = dict(sorted(gains.items(), key=lambda pair: -pair[1]))
        words = f"What each kind of mistake costs {name}: " + ", ".join(f"{k} {v:.3f}" for k, v in order.items())
        heading = f"<h3>{name.capitalize()}</h3>" if len(report.kinds) > 1 else ""
        parts.append(f"<div>{heading}{charts.bars(order, 'AP50 that would be gained without it (TIDE)', words)}</div>")
    counts = report.errors.counts()
    rows = [(kind, counts[kind], meaning) for kind, meaning in KINDS.items()]
    cells = "".join(
        f"<tr><td>{kind}</td><td class=number>{count:,}</td><td>{meaning}</td></tr>" for kind, count, meaning in rows
    )
    table = f"<table><tr><th>mistake</th><th class=number>boxes</th><th>which are</th></tr>{cells}</table>"
    return (
        f'<div class="charts">{"".join(parts)}<div>{table}<p class="note">Counted among detections of at least '
        f"{threshold_text(report.errors.threshold)}, the best threshold over all classes. The gains are of all detections; they do not add up, "
        "since mending one kind changes what another costs.</p></div></div>"
    )


def _curves(kind: Analysis) -> str:
    area = {
        threshold: {name: float(np.mean(values)) for name, values in every.items() if values is not None}
        for threshold, every in kind.curves.items()
    }
    first = next(iter(area.values()))
    order = sorted(first, key=lambda name: first[name])
    half = DRAWN_CLASSES // 2
    chosen = order if len(order) <= DRAWN_CLASSES else order[:half] + order[-half:]
    less = f" The {half} worst and the {half} best classes." if len(order) > len(chosen) else ""
    drawn = []
    for threshold, every in kind.curves.items() if chosen else ():
        known = {name: every[name] or [] for name in area[threshold]}
        mean = np.mean(list(known.values()), axis=0).tolist()
        words = f"Precision over recall at IoU {threshold}, of all classes and of {len(chosen)} of them"
        svg = charts.precision_recall({name: known[name] for name in chosen}, mean, f"{kind.iou_type}: {words}")
        lines = [("currentColor", f"all classes: {np.mean(mean):.3f}")]
        lines += [
            (colour, f"{name}: {area[threshold][name]:.3f}")
            for colour, name in zip(charts.COLOURS, chosen, strict=False)
        ]
        legend = "".join(
            f'<li><span class="swatch" style="background:{colour}"></span>{text(line)}</li>' for colour, line in lines
        )
        drawn.append(
            f'<div><h3>IoU {threshold}</h3>{svg}<ul class="legend">{legend}</ul>'
            f'<p class="note">Behind each name its area under the curve.{less}</p></div>'
        )
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else "<p>No objects.</p>"


def _thresholds(kind: Analysis) -> str:
    def cells(name: str, point: OperatingPoint) -> tuple[str, ...]:
        figures = (point.f1, point.precision, point.recall)
        return name, threshold_text(point.threshold), *(figure_text(value) for value in figures)

    rows = [cells("all classes", kind.threshold), *(cells(name, point) for name, point in kind.thresholds.items())]
    table = _table(("class", "threshold", "F1", "precision", "recall"), rows)
    use = (
        f"<p>With <code>--threshold {threshold_text(kind.threshold.threshold)}</code>, precision and recall at IoU 0.5 are in best balance.</p>"
        if kind.threshold.threshold >= 0
        else "<p>No detection is right, so no threshold is better than another.</p>"
    )
    note = '<p class="note">Chosen on these images: on others, F1 will be a little lower.</p>'
    return use + table + note


def _calibration(kind: Analysis) -> str:
    found = kind.calibration
    if found["ece"] is None:
        return f"<p>No detection scores {found['least_score']}.</p>"
    sayings = []
    for part, own in (
        ("below 0.5", [b for b in found["bins"] if b["high"] <= 0.5]),
        ("from 0.5 on", [b for b in found["bins"] if b["low"] >= 0.5]),
    ):
        if count := sum(one["count"] for one in own):
            right, said = (sum(one[name] * one["count"] for one in own) / count for name in ("right", "score"))
            sayings.append(f"those {part} are right in {right:.0%} of all cases and say {said:.0%}")
    words = f"{kind.iou_type}: How often detections of a score are right; expected calibration error {found['ece']:.3f}"
    rows = [
        (f"{one['low']:.1f} – {one['high']:.1f}", int(one["count"]), f"{one['score']:.3f}", f"{one['right']:.3f}")
        for one in found["bins"]
    ]
    table = _table(("score", "detections", "mean score", "share right"), rows)
    return (
        f"<p>Expected calibration error <b>{found['ece']:.3f}</b>, of {found['detections']:,} detections that score at least "
        f"{found['least_score']}; {', '.join(sayings)}.</p>"
        f'<div class="charts"><div>{charts.reliability(found["bins"], words)}</div><div>{table}<p class="note">On the dashed line, '
        "detections that score 0.7 are right in 70 % of all cases (IoU 0.5).</p></div></div>"
    )


def _confusion(report: Report) -> str:
    names, matrix = [*report.names, "background"], np.array(report.confusion)
    note = (
        f'<p class="note">Objects by their class (rows), and the class of the detection on them (columns): boxes of at least '
        f"{threshold_text(report.errors.threshold)}, IoU at least 0.5. The last column counts objects without a detection, the last row detections on no object, or on one that has a detection already.</p>"
    )
    if len(report.names) > MATRIX_CLASSES:
        off = matrix[:-1, :-1] * (1 - np.eye(len(report.names), dtype=int))
        places = [divmod(int(i), off.shape[1]) for i in np.argsort(-off, axis=None)[:MATRIX_CLASSES]]
        rows = [(names[i], names[j], int(off[i, j])) for i, j in places if off[i, j]]
        return (
            note + _table(("labelled", "taken for", "objects"), rows) + '<p class="note">The most frequent of them.</p>'
        )
    sums = matrix.sum(axis=1)
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    lines = []
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            share = matrix[i, j] / max(sums[i], 1)
            colour = "61,153,80" if i == j else "217,98,43"
            cells.append(f'<td class="cell" style="background:rgba({colour},{0.75 * share:.2f})">{matrix[i, j]:,}</td>')
        lines.append(f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>')
    return f'<div class="wide" tabindex="0" role="region" aria-label="confusion matrix"><table class="matrix"><tr><th>labelled ↓ found →</th>{head}</tr>{"".join(lines)}</table></div>{note}'


def _sizes(report: Report) -> str:
    sizes = {f"{one['size']} px ({one['objects']:,})": one["recall"] for one in report.sizes}
    words = "Recall by size: " + ", ".join(f"{name} {value:.3f}" for name, value in sizes.items())
    rows = [
        (
            one["objects"],
            one["images"],
            figure_text(one["AP"]),
            figure_text(one["AP50"]),
            f"{one['mistakes_per_image']:.2f}",
        )
        for one in report.crowds
    ]
    crowds = _table(("objects in the image", "images", "AP", "AP50", "mistakes an image"), rows)
    chart = charts.bars(sizes, "share that is found", words, most=1.12) if sizes else ""
    return (
        f'<div class="charts"><div><h3>By size</h3>{chart}<p class="note">Root of the area, in pixels of the file; in brackets how many objects. Detections of at least '
        f"{threshold_text(report.errors.threshold)}, IoU 0.5.</p></div><div><h3>By objects in the image</h3>{crowds}</div></div>"
    )


def _worst(report: Report, shown: Pictures) -> str:
    parts = []
    for kind, meaning in KINDS.items():
        tiles = []
        for marks in report.errors.worst_images(kind, WORST):
            words = ", ".join(said_of(mark) for mark in marks[:4]) + (
                f" and {len(marks) - 4} more" if len(marks) > 4 else ""
            )
            tiles.append(shown.beside_truth(marks, f"{len(marks)} {kind}: {words}"))
        if tiles := [tile for tile in tiles if tile]:
            parts.append(f'<h3>{kind.capitalize()}: {meaning}</h3><div class="pairs">{"".join(tiles)}</div>')
    if not parts:
        return "<p>No mistakes.</p>"
    return f'<p class="note">What is meant is marked with a dashed line. At most {MOST_FOUND} detections of an image, of at least {threshold_text(report.errors.threshold)}.</p>{"".join(parts)}'


def _suspects(report: Report, shown: Pictures) -> str:
    parts = []
    for kind, meaning in SUSPECTS.items():
        tiles = [shown.labels(mark, said_of(mark)) for mark in report.suspects[kind]]
        if tiles := [tile for tile in tiles if tile]:
            parts.append(f'<h3>{meaning.capitalize()}</h3><div class="sheet">{"".join(tiles)}</div>')
    if not parts:
        return "<p>None.</p>"
    return (
        '<p class="note">The pictures show the labels as they are, and with a dashed line what speaks against them. Some of these are '
        f"mistakes of the model: look before you change a label.</p>{''.join(parts)}"
    )


def _learning(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = [(f"{one['share']:.0%}", int(one["images"]), figure_text(one["figure"])) for one in found["points"]]
    table = _table(("share of the data", "training images", found["name"].replace("_", " ")), rows)
    words = f"{found['name']} over the number of training images"
    chart = charts.learning(
        [one["images"] for one in found["points"]],
        [one["figure"] for one in found["points"]],
        found["fit"],
        found["name"].replace("_", " "),
        words,
    )
    return f'<p>{text(found["verdict"])}</p><div class="charts"><div>{chart}</div><div>{table}<p class="note">{text(found["caveat"])}</p></div></div>'


def _run(rows: Sequence[dict[str, Any]]) -> str:
    svg = charts.run_curves(rows, "Losses and figures over the epochs of training") if rows else ""
    return f'<div class="charts"><div class="whole">{svg}</div></div>' if svg else ""


def _model(report: Report) -> str:
    model, speed = report.model, report.speed
    size = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in model["image_size"].items())
    rows = [
        ("model", f"{model['family']}, {model['backbone']}, {model['queries']} queries, {model['classes']} classes"),
        ("images", size),
        ("parameters", f"{model['parameters']:,} ({model['megabytes']:.1f} MB as loaded)"),
    ]
    if speed:
        rows += [
            ("speed", f"{speed['images_per_second']:.1f} images a second"),
            ("measured", f"in this evaluation, decoding included: {speed['images']:,} images in {speed['seconds']:.1f} s, {speed['precision']}, batches of {speed['batch_size']}"),
            ("machine", speed["machine"]),
        ]  # fmt: skip
    cells = "".join(f"<tr><th scope=row>{name}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"
