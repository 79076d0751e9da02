"""Where results are written: a file a part, whole or absent, as JSON lines or Parquet."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pyarrow
from pyarrow import parquet

from .places import Place

_SEGMENT = {
    "id": pyarrow.int64(), "label": pyarrow.string(), "class_id": pyarrow.int64(), "is_thing": pyarrow.bool_(),
    "score": pyarrow.float64(), "area": pyarrow.int64(),
}  # fmt: skip
_DETECTION = {
    "label": pyarrow.string(), "score": pyarrow.float64(), "box": pyarrow.list_(pyarrow.float64()),
    "mask": pyarrow.struct({"size": pyarrow.list_(pyarrow.int64()), "counts": pyarrow.string()}),
}  # fmt: skip
SCHEMA = pyarrow.schema(
    {
        "file": pyarrow.string(),
        "width": pyarrow.int64(),
        "height": pyarrow.int64(),
        "detections": pyarrow.list_(pyarrow.struct(_DETECTION)),
        "panoptic_png": pyarrow.binary(),
        "segments": pyarrow.list_(pyarrow.struct(_SEGMENT)),
        "error": pyarrow.string(),
    }
)


class PartWriter:
    """Writes the results of whole parts.

    Args:
        folder: where the parts are.
        form: "jsonl" or "parquet".
    """

    def __init__(self, folder: Place, form: str) -> None:
        self.folder, self.form = folder, form

    def __call__(self, rows: pyarrow.Table) -> pyarrow.Table:
        """Write the part that these rows are; a row that says how many pictures it has, how many of them could not be used,
        with what is wrong with the first, and how many detections there are."""
        ((name, count),) = set(zip(rows["part"].to_pylist(), rows["count"].to_pylist(), strict=True))
        if len(rows["position"].unique()) != count or rows.num_rows != count:
            raise RuntimeError(f"{name} came with {rows.num_rows} rows for {count} pictures")
        lines = [row.as_py() for row in rows.sort_by("position")["row"]]
        written = [json.loads(line) for line in lines]
        content = b"".join(lines) if self.form == "jsonl" else _parquet(written)
        (self.folder / name).write(content)
        errors = [row["error"] for row in written if "error" in row]
        return pyarrow.table(
            {
                "pictures": [count],
                "bad": [len(errors)],
                "first_error": [errors[0] if errors else ""],
                "found": [sum(len(row.get("detections", ())) for row in written)],
            }
        )


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    for row in rows:
        if "panoptic_png" in row:
            row["panoptic_png"] = base64.b64decode(row["panoptic_png"])
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
    return file.getvalue()
