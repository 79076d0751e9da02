"""`cdetr export`: a model as a file that other programs run, with a certificate of what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..messages import printable
from .options import add_model, add_split, add_threads, values_of
from .parser import CommandParser
from .threads import use_threads
from .usage import UsageError


def run(arguments: list[str]) -> None:
    values = values_of(_parser(), arguments, output_is_file=True)
    use_threads(values.pop("threads"))
    if values["top_k"] < 0:
        raise UsageError(f"--top_k is {values['top_k']}; it is a number of detections")
    _export(values)


def _parser() -> CommandParser:
    parser = CommandParser(
        "export",
        "Write a model as a file of ONNX, OpenVINO or PyTorch, of any batch and size of pictures; it is run beside the model, and "
        "kept only if both compute the same, which OUTPUT.certificate.json says.",
    )
    add_model(parser)
    parser.add_argument("--format", type=str, default="onnx", help="onnx, openvino or torch")
    parser.add_argument(
        "--output", type=str, required=True, help="an .onnx file, a folder for openvino, a .pt2 file for torch"
    )
    parser.add_argument(
        "--dtype",
        type=str,
        default="float32",
        help="float32 or float16, of weights and computation; int8: of backbone and MLPs, calibrated on --data",
    )
    parser.add_argument(
        "--mask", type=bool, default=False, help="an input pixel_mask, for batches of pictures of several sizes"
    )
    parser.add_argument("--normalize", type=bool, default=False, help="pixels come as uint8, and are normalised within")
    parser.add_argument(
        "--top_k",
        type=int,
        default=0,
        help="give the best so many detections, too, with boxes in pixels; of a segmentation model so many masks; 0: 100 masks",
    )
    parser.add_argument("--opset", type=int, default=20, help="of ONNX, 20 to 23")
    parser.add_argument("--images", type=str, nargs="*", default=[], help="pictures to compare on, too")
    parser.add_argument("--data", type=str, default="", help="data set to score on before and after")
    add_split(parser)
    add_threads(parser)
    return parser


def _export(values: dict[str, Any]) -> None:
    from ..data.splits import read_split
    from ..export.certificate import certificate_name
    from ..export.export import export
    from ..images.find import find_images

    folder, split, shares = (values.pop(name) for name in ("data", "split", "shares"))
    values["images"] = find_images(values["images"]) if values["images"] else []
    values["top_k"] = values["top_k"] or None
    output = Path(values.pop("output"))
    data = read_split(folder, split, "detection", False, shares) if folder else None
    if data is not None and values["dtype"] == "int8":
        values["calibration"] = _training_pictures(folder, split, shares)
    made = export(values.pop("model"), output, data=data, progress=print, **values)
    largest = ", ".join(f"{name} {value:.1e}" for name, value in made.largest.items())
    print(f"largest differences in {len(made.cases)} cases, {made.detections} detections: {largest}")
    if made.figures:
        before, after = (made.figures[when].get("AP", -1.0) for when in ("before", "after"))
        print(f"AP {before:.4f} before, {after:.4f} after")
    print(f"{printable(output)}, by {made.engine}; what was compared is in {printable(certificate_name(output))}")


def _training_pictures(folder: str, split: str, shares: str) -> list[Path]:
    """Pictures of the training split, so that what is scored has not been calibrated on; none where there is no other."""
    from ..data.splits import read_split

    if split == "train":
        return []
    try:
        training = read_split(folder, "train", "detection", True, shares)
    except (OSError, ValueError):
        return []
    return [training.image_path(i) for i in range(len(training))]
