"""`Detector` with PyTorch, ONNX Runtime and OpenVINO, beside these engines alone, and both in eight bits: `python -m benchmarks.engines`.

An array of pixels at its own size to detections; the engines alone take the same pixels, normalised before, and give logits
and boxes. What is between the two is preparing and reading.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import numpy as np
import torch

from conditional_detr import Detector
from conditional_detr.engines.files import exported_file, open_engine
from conditional_detr.engines.formats import openvino_of_onnx
from conditional_detr.export.eight_bits import quantize
from conditional_detr.export.export import export
from conditional_detr.images.pixels import normalize

from .measure import Contender, arguments, compare
from .models import save


def quantized(file: Path, pixels: dict[str, np.ndarray]) -> dict[str, Path]:
    """A float32 file in eight bits, for each engine; calibrated on noise, which costs the time that pictures do."""
    onnx = importlib.import_module("onnx")
    small = file.with_name("int8.onnx")
    small.write_bytes(file.read_bytes())
    quantize(small, [pixels])
    folder = file.with_name("int8")
    folder.mkdir()
    openvino_of_onnx(small, {entry.key: entry.value for entry in onnx.load(small).metadata_props}, folder)
    return {"onnxruntime": small, "OpenVINO": folder}


def main(argv: list[str] | None = None) -> None:
    options = arguments(__doc__, argv, quick={"height": 96, "width": 128}, repeats=9, height=480, width=640)
    size = options.height, options.width
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels = {"pixel_values": normalize(torch.from_numpy(image).permute(2, 0, 1)[None]).contiguous().numpy()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        save(folder, options.quick)
        files = {"onnxruntime": Path(name) / "model.onnx", "OpenVINO": Path(name) / "openvino"}
        for format, file in zip(("onnx", "openvino"), files.values(), strict=True):
            if not options.peak_of:
                export(folder, file, format=format)

        def detector(model: Path, dtype: torch.dtype) -> object:
            made = Detector.from_pretrained(model, device="cpu", dtype=dtype, image_size=min(size), max_size=max(size))
            return lambda: made(image)

        def engine(file: Path, dtype: torch.dtype) -> object:
            found = exported_file(file)
            assert found is not None
            alone = open_engine(found, str(dtype).removeprefix("torch."))
            return lambda: alone(pixels)

        contenders = []
        for dtype in (torch.float32, torch.bfloat16):
            kind = str(dtype).removeprefix("torch.")
            contenders.append(
                Contender(f"Detector, PyTorch, {kind}", lambda dtype=dtype: detector(folder, dtype), dtype, peak=False)
            )
            for title, file in files.items():
                if dtype == torch.bfloat16 and title == "onnxruntime":
                    continue
                for who, build in (("Detector", detector), ("engine alone", engine)):
                    run = lambda file=file, dtype=dtype, build=build: build(file, dtype)  # noqa: E731
                    contenders.append(Contender(f"{who}, {title}, {kind}", run, dtype, peak=False))
        if not options.peak_of:
            for title, file in quantized(files["onnxruntime"], pixels).items():
                contenders.append(
                    Contender(f"Detector, {title}, int8", lambda file=file: detector(file, torch.float32), peak=False)
                )
        compare(f"Engines: one image of {size[0]}×{size[1]}", contenders, options, peer="Detector, PyTorch")


if __name__ == "__main__":
    main()
