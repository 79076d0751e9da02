"""Charts as SVG that stands in a page: text is text and has the page's colour, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..train.pictures import curves
from .matches import RECALLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # becomes the page's own colour
COLOURS = ("#3b7dd8", "#d9622b", "#3d9950", "#a455b5", "#c9a227", "#2aa3a3", "#d1478c", "#7a6ff0", "#8a6d3b", "#6b7a8f")


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    matplotlib.use("Agg")
    plain: dict[Any, Any] = {
        "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif",
        "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
        "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
        "grid.color": INK, "grid.alpha": 0.15, "axes.grid": True, "axes.axisbelow": True,
    }  # fmt: skip
    with matplotlib.rc_context(plain):
        yield


def _svg(figure: Figure, words: str) -> str:
    """Args: words: what the chart says, for those who do not see it; HTML."""
    import matplotlib
    from matplotlib import pyplot as plt

    content = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": words}):  # ids are made of it, and each of a page is to be there once
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|LineCollection|FillBetween)[^"]*"',
        "",
        svg,
    )
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label="{words}"', 1)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def precision_recall(curves: Mapping[str, Sequence[float]], mean: Sequence[float], words: str) -> str:
    """Args: curves: of the classes that are drawn, in the order of `COLOURS`; mean: of all."""
    with _style():
        figure, axes = _axes(5.2, 3.9)
        for colour, values in zip(COLOURS, curves.values(), strict=False):
            axes.plot(RECALLS, values, color=colour, linewidth=1.2)
        axes.plot(RECALLS, mean, color=INK, linewidth=2.2)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        return _svg(figure, words)


def reliability(bins: Sequence[Mapping[str, Any]], words: str) -> str:
    """How often detections are right, over their scores; the wider the mark, the more there are."""
    with _style():
        figure, axes = _axes(4.2, 3.9)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
        counts = np.array([one["count"] for one in bins], float)
        sizes = 20 + 220 * counts / counts.max() if len(counts) else []
        scores, right = ([one[name] for one in bins] for name in ("score", "right"))
        axes.plot(scores, right, color=COLOURS[0], linewidth=1.2)
        axes.scatter(scores, right, s=sizes, color=COLOURS[0], alpha=0.75, linewidths=0)
        axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.04))
        return _svg(figure, words)


def bars(values: Mapping[str, float], label: str, words: str, most: float | None = None) -> str:
    """Horizontal bars, the first on top. The names must be ours: they are not measured for room."""
    with _style():
        figure, axes = _axes(5.2, 0.5 + 0.34 * len(values))
        drawn = axes.barh(range(len(values)), list(values.values()), color=COLOURS[0], height=0.62)
        axes.bar_label(drawn, fmt="%.3f", padding=3, color=INK, fontsize=9)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        axes.set(xlabel=label, xlim=(0, most or 1.18 * max([*values.values(), 0.01])))
        axes.grid(axis="y", visible=False)
        return _svg(figure, words)


def learning(
    images: Sequence[int], figures: Sequence[float], fit: Mapping[str, Any] | None, label: str, words: str
) -> str:
    """A figure over the number of training images; fit: see `learning_curve.power_law`."""
    with _style():
        figure, axes = _axes(5.2, 3.4)
        axes.plot(images, figures, "o", color=COLOURS[0])
        if fit is not None:
            axes.plot(fit["images"], fit["figures"], color=COLOURS[0], linewidth=1.2, linestyle="--")
            for one in fit["predicted"]:
                if one["low"] is not None:
                    axes.plot([one["images"]] * 2, [one["low"], one["high"]], color=COLOURS[0], linewidth=4, alpha=0.4)
        axes.set(xlabel="training images", ylabel=label, ylim=(0, None), xlim=(0, None))
        return _svg(figure, words)


def run_curves(rows: Sequence[dict[str, Any]], words: str) -> str:
    """The curves of a run; empty where it has not trained. rows: of `log.jsonl`."""
    with _style():
        figure = curves(rows)
        return "" if figure is None else _svg(figure, words)
