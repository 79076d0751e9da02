"""What a run says of itself: the progress line, `log.jsonl`, TensorBoard, and curves as a picture."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..files import write_atomically
from .pictures import draw_curves

LINE_SECONDS = 30  # between lines where the output is not a terminal


class RunLog:
    """The log of a run; the first process speaks, and those that write (see `Processes`) keep the files.

    `log.jsonl` holds one JSON object a line: `{"kind": "train" | "eval", "step": …, "epoch": …, …}`.
    """

    def __init__(self, folder: Path, total_steps: int, is_first: bool) -> None:
        self.folder, self.total_steps = folder, total_steps
        self.writes = is_first
        self.started_at = self.spoke_at = time.monotonic()
        self.first_step = 0
        self.console = Console(quiet=not is_first, highlight=False)
        self.path = folder / "log.jsonl"
        self.best = ""  # "best AP 0.412", as far as known
        self.rows: list[dict[str, Any]] = []
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            disable=not (is_first and self.console.is_terminal),
        )
        self.task = self.progress.add_task("train", total=total_steps, status="")

    def start(self, step: int, evaluated_step: int) -> None:
        """Forget what a run before wrote after the checkpoint that training continues from (all of it at step 0), and
        what a killed run or another program left that is no row."""
        if self.path.is_file():
            rows = read_log(self.path)
            last = {"train": step, "eval": evaluated_step}
            self.rows = [row for row in rows if row["step"] <= last.get(row["kind"], step)]
            kept = "".join(json.dumps(row) + "\n" for row in self.rows)
            if self.writes:
                write_atomically(self.path, lambda beside: beside.write_text(kept, encoding="utf-8"))
        self.first_step = step
        self.progress.update(self.task, completed=step)

    def record(self, kind: str, step: int, epoch: float, **values: Any) -> None:
        row = {"kind": kind, "step": step, "epoch": round(epoch, 4), "time": round(time.time(), 2), **values}
        self.rows.append(row)
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def show(self, step: int, epoch: float, loss: float, data_share: float) -> None:
        """Move the progress line on."""
        best = f"  {self.best}" if self.best else ""
        status = f"epoch {epoch:.1f}  loss {loss:.3f}{best}  waiting for data {data_share:.0%}"
        self.progress.update(self.task, completed=step, status=status)
        now = time.monotonic()
        if self.progress.disable and now - self.spoke_at > LINE_SECONDS:  # a log file gets a line now and then
            self.spoke_at = now
            left = (self.total_steps - step) * (now - self.started_at) / max(step - self.first_step, 1)
            self.say(f"step {step}/{self.total_steps}  {status}  eta {left / 60:.0f} min")

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def draw_curves(self) -> None:
        """Write `curves.png`."""
        if self.writes:
            draw_curves(self.folder / "curves.png", self.rows)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's `log.jsonl`, without what is none.

    Raises:
        OSError: it cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    return [row for row in map(_row, text.splitlines()) if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    """A line of `log.jsonl`; None where it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(row, dict) and row.get("kind") in ("train", "eval")
    numbers = good and all(isinstance(row.get(name), int | float) for name in ("step", "epoch"))
    return row if numbers else None
