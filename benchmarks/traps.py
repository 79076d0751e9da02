"""What transformers gets wrong, measured beside this package on the same weights: `python -m benchmarks.traps`.

Weights are random, norms and biases too. Each number says what should be 0, or the same in both columns, or so many.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING

import conditional_detr
from conditional_detr.losses.criterion import LossNormalizers, count_normalizers, detection_loss

from .measure import arguments, machine

Row = tuple[str, str, str]
SIZES = ((257, 411), (320, 199))  # of the two images that share a batch
MODEL: dict[str, Any] = dict(
    num_labels=7, num_queries=20, encoder_layers=2, decoder_layers=3, encoder_ffn_dim=512, decoder_ffn_dim=512
)


def pair(family: str = "ConditionalDetr", **values: Any) -> tuple[nn.Module, nn.Module]:
    """(ours, transformers') with the same random weights, in evaluation mode."""
    torch.manual_seed(0)
    config = getattr(conditional_detr, f"{family}Config")(**{**MODEL, **values})
    ours = getattr(conditional_detr, f"{family}ForObjectDetection")(config)
    randomise(ours)
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = getattr(transformers, f"{family}ForObjectDetection").from_pretrained(folder)
    return ours.eval(), theirs.eval()


def randomise(model: nn.Module) -> None:
    """Statistics, norms and biases away from 0 and 1, as training leaves them."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.dim() == 1 and name.endswith("weight"):
                tensor.uniform_(0.7, 1.3)
            elif tensor.dim() == 1:
                tensor.normal_(std=0.1)


def batch_mates(backbone: str, dilation: bool) -> Row:
    """Trap 1: an image's predictions beside a larger image, against its predictions alone."""
    images = [torch.randn(3, *size) for size in SIZES]
    canvas = [max(sides) for sides in zip(*SIZES, strict=True)]
    pixels, mask = torch.zeros(2, 3, *canvas), torch.zeros(2, *canvas, dtype=torch.long)
    for i, (height, width) in enumerate(SIZES):
        pixels[i, :, :height, :width] = images[i]
        mask[i, :height, :width] = 1
    moved = []
    for model in pair(backbone=backbone, dilation=dilation):
        together = model(pixels, pixel_mask=mask).logits
        moved.append(max(distance(together[i], model(image[None]).logits[0]) for i, image in enumerate(images)))
    name = f"{backbone}{' DC5' if dilation else ''}"
    return f"1. logits move when an image shares its batch ({name})", *numbers(moved)


def auxiliary_loss(family: str) -> Row:
    """Trap 2: predictions with `auxiliary_loss`, as in training, against those without, as in use."""
    pixels = torch.randn(1, 3, 256, 256)
    moved = []
    for model in pair(family, backbone="resnet18"):
        plain = model(pixels).logits
        model.config.auxiliary_loss = True
        for part in model.modules():  # transformers' decoder holds the configuration as well
            if hasattr(part, "config"):
                part.config.auxiliary_loss = True
        moved.append(distance(model(pixels).logits, plain))
    return f"2. logits move when auxiliary_loss is turned on ({family})", *numbers(moved)


def segmentation_boxes() -> Row:
    """Trap 3: the segmentation model's boxes, against the detector's on the same weights."""
    _, detector = pair(backbone="resnet18")
    segmenter = transformers.ConditionalDetrForSegmentation(detector.config)
    segmenter.conditional_detr.load_state_dict(detector.state_dict())
    pixels = torch.randn(1, 3, 256, 256)
    boxes = segmenter.eval()(pixels).pred_boxes
    return "3. boxes of the segmentation model differ from the detector's", *numbers([None, distance(boxes, detector(pixels).pred_boxes)])  # fmt: skip


def crowds() -> Row:
    """Trap 6: masks of an image with one object and one crowd."""
    square = [[8, 8, 40, 8, 40, 40, 8, 40]]
    objects = [
        {"category_id": 1, "bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0, "segmentation": square},
        {"category_id": 1, "bbox": [0, 0, 64, 8], "area": 512, "iscrowd": 1, "segmentation": square},
    ]
    answers = []
    for package in (conditional_detr, transformers):
        processor = package.ConditionalDetrImageProcessor(format="coco_detection")
        try:
            labels = processor(
                images=Image.new("RGB", (64, 64)), annotations={"image_id": 1, "annotations": objects},
                return_segmentation_masks=True, return_tensors="pt",
            )["labels"][0]  # fmt: skip
            answers.append(f"{len(labels['boxes'])} boxes, {len(labels['masks'])} masks")
        except Exception as error:
            answers.append(type(error).__name__)
    return "6. an image with an object and a crowd, with masks", *answers


def padded_targets() -> Row:
    """Trap 7: the centre of a box in the middle of an image, beside a taller image."""
    images = [Image.new("RGB", (100, 100)), Image.new("RGB", (100, 160))]
    annotations = [
        {"image_id": i, "annotations": [{"category_id": 0, "bbox": box, "area": 400, "iscrowd": 0}]}
        for i, box in enumerate([[40, 40, 20, 20], [40, 70, 20, 20]])
    ]
    centres = []
    for package in (conditional_detr, transformers):
        processor = package.ConditionalDetrImageProcessor(size={"shortest_edge": 100, "longest_edge": 160})
        labels = processor(images=images, annotations=annotations, return_tensors="pt")["labels"]
        centres.append(f"{labels[0]['boxes'][0, 1]:.4f}")
    return "7. target centre of a box in the middle of its image, beside a taller image (0.5)", *centres


def class_weight() -> Row:
    """What `cls_loss_coefficient=4` adds to the loss, in class losses."""
    labels = [{"class_labels": torch.tensor([1, 2]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.2, 0.4]])}]  # fmt: skip
    weights = []
    for model in pair(backbone="resnet18", cls_loss_coefficient=4):
        outputs = model(torch.randn(1, 3, 256, 256), labels=labels)
        others = 5 * outputs.loss_dict["loss_bbox"] + 2 * outputs.loss_dict["loss_giou"]
        weights.append((outputs.loss - others) / outputs.loss_dict["loss_ce"])
    return "weight of the class loss with cls_loss_coefficient=4", *numbers([w.item() for w in weights])


def micro_batches() -> Row:
    """DETR's class loss of a step of two images, 1 and 12 objects, as one batch and as the sum of two micro-batches."""
    config = conditional_detr.DetrConfig(num_labels=7)
    logits, boxes = torch.randn(1, 2, 20, 8), torch.rand(1, 2, 20, 4) * 0.3 + 0.3
    labels = [{"class_labels": torch.randint(7, (n,)), "boxes": torch.rand(n, 4) * 0.3 + 0.3} for n in (1, 12)]
    parts = [(logits[:, i : i + 1], boxes[:, i : i + 1], labels[i : i + 1]) for i in range(2)]
    shares = [count_normalizers(config, own) for _, _, own in parts]
    step = LossNormalizers(*(sum(values) for values in zip(*shares, strict=True)))
    whole = detection_loss(config, logits, boxes, labels)[1]["loss_ce"]
    ours = sum(detection_loss(config, *part, step)[1]["loss_ce"] for part in parts)
    function, their_config = LOSS_MAPPING["ForObjectDetection"], transformers.DetrConfig(num_labels=7)

    def their(a: Tensor, b: Tensor, own: list[dict[str, Tensor]]) -> Tensor:
        return function(a[0], own, a.device, b[0], their_config)[1]["loss_ce"]

    theirs = sum(their(*part) for part in parts) / 2  # a step's micro-batches are averaged
    moved = [abs(ours / whole - 1).item(), abs(theirs / their(logits, boxes, labels) - 1).item()]
    return "DETR's class loss of a step moves when it is split into micro-batches, relative", *numbers(moved)


def distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def numbers(values: list[float | None]) -> tuple[str, str]:
    """(ours, theirs) as text."""
    ours, theirs = ("–" if value is None else f"{value:.2g}" for value in values)
    return ours, theirs


@torch.no_grad()
def main() -> None:
    arguments(__doc__)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    measurements: list[Callable[[], Row]] = [
        lambda: batch_mates("resnet50", False),
        lambda: batch_mates("resnet50", True),
        lambda: auxiliary_loss("ConditionalDetr"),
        lambda: auxiliary_loss("Detr"),
        segmentation_boxes,
        crowds,
        padded_targets,
        class_weight,
        micro_batches,
    ]
    print("| | here | transformers |\n|---|---|---|")
    for measure in measurements:
        torch.manual_seed(0)
        print("| " + " | ".join(measure()) + " |", flush=True)
    facts = machine()
    print("\n" + ", ".join(f"{name} {facts[name]}" for name in ("cpu", "python", "torch", "transformers")))


if __name__ == "__main__":
    main()
