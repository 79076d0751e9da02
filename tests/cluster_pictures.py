"""Folders of pictures for a cluster, and what is written of them."""

import json

import numpy as np
from PIL import Image

SIZES = [(64, 64), (48, 64), (64, 48), (64, 40)]  # width and height


def write_pictures(folder, count):
    """`count` pictures of noise; sizes that follow one another differ."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        width, height = SIZES[i % len(SIZES)]
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{i:05}.png")
    return folder


def rows_of(output):
    """Of all parts of JSON lines, in order."""
    return [json.loads(line) for part in sorted(output.glob("part-*.jsonl")) for line in part.read_text().splitlines()]
