"""Whose a JSON file is, from its beginning: several tools' data sets are JSON files, and some are large."""

from __future__ import annotations

import re
from pathlib import Path

LOOKED_AT = 2**16  # bytes
MOST_FILES = 50  # of a folder are looked at
COCO_JSON, LABELME_JSON = "COCO", "LabelMe"

# The first whose patterns are all in it.
_KINDS = (
    ("VIA", (r'"_via_settings"|"_via_img_metadata"|"region_attributes"|"shape_attributes"',)),
    ("createML", (r"^\s*\[", r'"image"', r'"coordinates"')),
    ("Label Studio", (r'"(from_name|to_name|completions|rectanglelabels|labels_studio|annotations)"', r"^\s*\[")),
    ("Datumaro", (r'"dm_format_version"|"categories"\s*:\s*\{',)),
    ("Supervisely", (r'"size"\s*:\s*\{', r'"objects"\s*:\s*\[')),
    (LABELME_JSON, (r'"shapes"\s*:\s*\[\s*[{\]]|"imageData"\s*:',)),
    (COCO_JSON, (r"^\s*\{", r'"(images|categories|annotations)"')),
)


def json_kind(file: Path) -> str:
    """The name of the tool or format that a JSON file seems to be of; nothing where none is known."""
    try:
        with open(file, "rb") as content:
            text = content.read(LOOKED_AT).decode("utf-8", "replace")
    except OSError:
        return ""
    text = re.sub(r'"[A-Za-z0-9+/=]{200,}', '"', text)  # pictures within
    return next((kind for kind, patterns in _KINDS if all(re.search(pattern, text) for pattern in patterns)), "")
