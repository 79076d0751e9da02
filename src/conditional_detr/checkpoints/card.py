"""The model card: what a saved model's README.md says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

import yaml

from ..config import DetectionConfig
from ..files import write_atomically

# Shows a card that was written here, so that one a user wrote is left alone.
MARK = "<!-- Written by conditional-detr when the model was saved; remove this line to keep your own text. -->"

FRONT_MATTER = re.compile(r"---\n(.*?)\n---", re.DOTALL)

USE = """```python
from PIL import Image
from {package} import AutoImageProcessor, AutoModelForObjectDetection

name = "{name}"
processor = AutoImageProcessor.from_pretrained(name)
model = AutoModelForObjectDetection.from_pretrained(name)

image = Image.open("image.jpg")
inputs = processor(images=image, return_tensors="pt")
outputs = model(**inputs)
(result,) = processor.post_process_object_detection(outputs, target_sizes=[image.size[::-1]], threshold=0.5)
for score, label, box in zip(result["scores"], result["labels"], result["boxes"]):
    box = [round(side, 2) for side in box.tolist()]
    label, score = model.config.id2label[label.item()], round(score.item(), 3)
    print(f"Detected {{label}} with confidence {{score}} at location {{box}}")
```"""

USE_MASKS = """```python
from PIL import Image
from {package} import AutoImageProcessor, AutoModelForImageSegmentation

name = "{name}"
processor = AutoImageProcessor.from_pretrained(name)
model = AutoModelForImageSegmentation.from_pretrained(name)

image = Image.open("image.jpg")
inputs = processor(images=image, return_tensors="pt")
outputs = model(**inputs)
(result,) = processor.post_process_panoptic_segmentation(outputs, target_sizes=[image.size[::-1]], threshold=0.5)
for segment in result["segments_info"]:
    print(f"Segment {{segment['id']}}: {{model.config.id2label[segment['label_id']]}}, {{segment['score']:.3f}}")
```"""


def model_card(
    config: DetectionConfig,
    *,
    masks: bool = False,
    name: str = ".",
    dataset: str | None = None,
    metrics: Mapping[str, float] | None = None,
    transformers_reads_it: bool = True,
) -> str:
    """Write the card.

    Args:
        masks: whether it is a segmentation model.
        name: what the snippet loads: a hub name, or "." for the folder that the card is in.
        dataset: what the model was trained or evaluated on, in the user's words.
        metrics: name -> figure, such as {"AP": 0.412}.
        transformers_reads_it: whether the folder opens in transformers as well.

    Returns:
        Markdown with YAML front matter. It says no license: that is the owner's to choose.

    Raises:
        TypeError: a metric is no number.
    """
    given: Mapping[str, object] = metrics or {}
    for metric, value in given.items():
        if not isinstance(value, Real):
            raise TypeError(f"metric {metric!r} of the model card must be a number, got {type(value).__name__}")
    title = f"{config.family_name} with {config.backbone}{' (DC5)' if config.dilation else ''}{' and masks' if masks else ''}"
    others = "; the same lines work with `from transformers import …`" if transformers_reads_it else ""
    snippet = USE_MASKS if masks else USE
    parts = [
        _front_matter(config, title, masks, dataset, metrics, transformers_reads_it),
        MARK,
        f"# {title}",
        f"{'A segmentation model' if masks else 'An object detector'}, [{config.family_name}]({config.paper}), with "
        f"{config.num_queries} queries and {config.num_labels} "
        f"class{'' if config.num_labels == 1 else 'es'}.",
        f"## Use\n\n`pip install conditional-detr`{others}.\n\n{snippet.format(package='conditional_detr', name=name)}",
        f"## Classes\n\n{', '.join(' '.join(label.split()) for label in config.id2label.values())}",
        f"## Data\n\n{dataset or 'Not stated.'}",
        f"## Figures\n\n{_table(metrics) if metrics else 'Not stated.'}",
    ]
    return "\n\n".join(parts) + "\n"


def write_card(folder: Path, card: str) -> None:
    """Write README.md, unless there is one that a person wrote."""
    path = folder / "README.md"
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    write_atomically(path, lambda beside: beside.write_text(card, encoding="utf-8"))


def license_of(name: str | Path) -> str:
    """The license that the card in a saved model's folder gives its weights; "" where there is none."""
    path = Path(name) / "README.md"
    if not path.is_file():
        return ""
    found = FRONT_MATTER.match(path.read_text(encoding="utf-8", errors="replace"))
    try:
        values = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return ""
    license = values.get("license", "") if isinstance(values, dict) else ""
    return license if isinstance(license, str) else ""


def _front_matter(
    config: DetectionConfig,
    title: str,
    masks: bool,
    dataset: str | None,
    metrics: Mapping[str, float] | None,
    transformers_reads_it: bool,
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = "image-segmentation" if masks else "object-detection"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset or "unknown",
            dataset_name=dataset or "unknown",
            metric_type=metric,
            metric_value=float(value),
        )
        for metric, value in (metrics or {}).items()
    ]
    data = ModelCardData(
        library_name="conditional-detr",
        pipeline_tag=task,
        tags=[task, "vision", config.model_type, *(["transformers"] if transformers_reads_it else [])],
        model_name=title if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _table(metrics: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    return "\n".join(["| figure | value |", "|---|---|", *rows])
