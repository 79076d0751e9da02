"""Detection from file to boxes, one photograph and many: `python -m benchmarks.inference`.

The hundred best boxes of each image are wanted, whatever their scores, so that weights that know nothing give as much
to do as trained ones.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import transformers
from PIL import Image
from torchvision.transforms import v2

from conditional_detr import Detector
from conditional_detr.images.sizes import size_after_resize
from conditional_detr.models.deploy import check_dtype

from .measure import Contender, arguments, compare
from .models import Original, config, multiply_adds, save, theirs

# Height and width of photographs as cameras and COCO have them.
SIZES = [(480, 640), (640, 480), (427, 640), (640, 427), (500, 375), (375, 500), (333, 500), (612, 612), (426, 640), (960, 1280)]  # fmt: skip
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


def photograph(path: Path, height: int, width: int) -> Path:
    """Write a JPEG with shapes large and small: noise alone would take longer to decode than a photograph."""
    rng = np.random.default_rng(height * width)
    layers = [rng.integers(0, 256, (-(-height // cell), -(-width // cell), 3)) for cell in (64, 16, 4)]
    grown = [
        layer.repeat(cell, 0).repeat(cell, 1)[:height, :width] for layer, cell in zip(layers, (64, 16, 4), strict=True)
    ]
    Image.fromarray((sum(grown) / 3).astype(np.uint8)).save(path, quality=90)
    return path


def our_detector(folder: Path, files: list[Path], dtype: torch.dtype, compiled: bool) -> Callable[[], Any]:
    detector = Detector.from_pretrained(folder, device="cpu", dtype=dtype, compile=compiled)
    return lambda: detector.detect(files, 0.0)


def their_detector(
    folder: Path, files: list[Path], dtype: torch.dtype = FLOAT32, best: bool = False, compiled: bool = False
) -> Callable[[], Any]:
    """transformers as its documentation uses it; at its `best`: torchvision's decoder, channels-last, inference mode;
    compiled by Inductor with its weights frozen."""
    processor = transformers.ConditionalDetrImageProcessor.from_pretrained(folder)
    model = theirs(folder, dtype=dtype).eval()
    call: Callable[..., Any] = model
    if best:
        model.to(memory_format=torch.channels_last)
    if compiled:
        call = torch.compile(model, dynamic=False, options={"freezing": True})

    def detect(file: Path) -> Any:
        if best:
            image = torchvision.io.read_image(str(file))
            size = tuple(image.shape[-2:])
        else:
            image = Image.open(file)
            size = image.size[::-1]
        inputs = processor(images=image, return_tensors="pt")
        pixels = inputs["pixel_values"].to(dtype)
        if best:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        output = call(pixels, pixel_mask=inputs["pixel_mask"])
        return processor.post_process_object_detection(output, threshold=0.0, target_sizes=[size])[0]

    def run() -> Any:
        with torch.inference_mode() if best and not compiled else torch.no_grad():
            return [detect(file) for file in files]

    return run


def original_detector(checkout: str, folder: Path, files: list[Path], quick: bool) -> Callable[[], Any]:
    original = Original(checkout, folder)
    model = original.model.eval()
    sizes = [96, 160] if quick else [800, 1333]
    transform = v2.Compose(
        [v2.Resize(sizes[0], max_size=sizes[1]), v2.PILToTensor(), v2.ToDtype(FLOAT32, scale=True),
         v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )  # fmt: skip

    @torch.no_grad()
    def run() -> Any:
        results = []
        for file in files:
            image = Image.open(file).convert("RGB")
            output = model(transform(image)[None])
            results += original.post_process(output, torch.tensor([image.size[::-1]]))
        return results

    return run


def scores_differ(folder: Path, file: Path) -> float:
    """The largest difference between the hundred scores that both libraries find in an image, in float32."""
    ours = torch.tensor([found.score for found in our_detector(folder, [file], FLOAT32, False)()[0]])
    their = their_detector(folder, [file])()[0]["scores"].sort(descending=True).values
    return (ours - their).abs().max().item()


def contenders(options: argparse.Namespace, folder: Path, files: list[Path], compiled: bool) -> list[Contender]:
    types = {"float32": FLOAT32}
    with suppress(ValueError):  # many processors have no bfloat16, and `Detector` does not emulate it
        check_dtype(torch.device("cpu"), BFLOAT16)
        types["bfloat16"] = BFLOAT16
    chosen = [
        Contender(f"ours, {name}", partial(our_detector, folder, files, t, False), t) for name, t in types.items()
    ]
    if compiled:
        chosen += [
            Contender(f"ours, {name}, compiled", partial(our_detector, folder, files, t, True), t, peak=False)
            for name, t in types.items()
        ]
    chosen.append(Contender("transformers, as it comes", partial(their_detector, folder, files)))
    for name, t in types.items():
        best = partial(their_detector, folder, files, t, best=True)
        chosen.append(Contender(f"transformers, {name}, channels-last", best, t))
        if compiled:
            build = partial(best, compiled=True)
            chosen.append(Contender(f"transformers, {name}, channels-last, compiled", build, t, peak=False))
    if options.original:
        build = partial(original_detector, options.original, folder, files, options.quick)
        chosen.append(Contender("the original", build))
    return chosen


def main(argv: list[str] | None = None) -> None:
    options = arguments(__doc__, argv, quick={"images": 2}, repeats=7, images=len(SIZES))
    sizes = SIZES[: options.images]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder, options.quick)
        files = [photograph(folder / f"{i}.jpg", *size) for i, size in enumerate(sizes)]
        model = Detector.from_pretrained(folder, device="cpu")
        canvases = [size_after_resize(*size, model.processor.size) for size in sizes]
        work = [multiply_adds(model.model, *canvas) for canvas in canvases]
        facts = {}
        if not options.peak_of:
            facts["largest_score_difference"] = f"{scores_differ(folder, files[0]):.1e}"
        backbone = config(options.quick).backbone
        setting = f"{backbone}, {sizes[0][0]}×{sizes[0][1]} JPEG at {canvases[0][0]}×{canvases[0][1]}"
        compare(
            f"One image: file to boxes, {setting}", contenders(options, folder, files[:1], options.compile), options,
            multiply_adds=work[0], facts=facts,
        )  # fmt: skip
        # Not compiled: transformers would compile for each size anew.
        compare(
            f"Many images: file to boxes, {backbone}, {len(files)} JPEGs of as many sizes, time of all",
            contenders(options, folder, files, False), options,
            multiply_adds=sum(work), repeats=max(2, options.repeats // 3),
        )  # fmt: skip


if __name__ == "__main__":
    main()
