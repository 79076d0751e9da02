"""Small saved models that are exported, and what their certificates say."""

import json

from small_models import randomise, small_config

from conditional_detr.export.certificate import certificate_name
from conditional_detr.models.family import family_of
from conditional_detr.processors.auto_processor import IMAGE_PROCESSORS

SIZE = {"shortest_edge": 64, "longest_edge": 96}
NAMES = {0: "circle", 1: "square", 2: "triangle"}


def saved(folder, family="conditional_detr", masks=False, **values):
    """A saved model and its processor."""
    config = small_config(family, id2label=NAMES, **({"is_thing": [True, True, False]} if masks else {}), **values)
    kind = family_of(family).segmenter if masks else family_of(family).detector
    randomise(kind(config)).save_pretrained(folder)
    IMAGE_PROCESSORS[family](size=SIZE).save_pretrained(folder)
    card = folder / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: cc-by-4.0\n", 1))
    return folder


def certificate_of(output):
    return json.loads(certificate_name(output).read_text())
