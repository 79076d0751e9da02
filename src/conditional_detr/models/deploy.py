"""A trained detector rearranged to predict fast: the same predictions, and nothing that training would need.

What is done once instead of in every forward pass, and what it brings, is in docs/benchmarks.md.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from .detector import ObjectDetectionModel
from .onednn import use_onednn
from .segmenter import SegmentationModel

# A GPU replays a recorded graph for each canvas: with sides in steps of 64 pixels, shortest side 800 and longest 1333
# give 41 canvases at most, and 6 % of padding on photographs of usual shapes.
GPU_CANVAS_STEP = 64


def prepare_for_inference(
    model: ObjectDetectionModel | SegmentationModel, device: torch.device, dtype: torch.dtype = torch.float32
) -> None:
    """Fold norms into convolutions, lay weights out for the device, and move there. For good: the model can neither be
    trained nor saved any more.

    In bfloat16 and float16 the class and box heads, the object queries and the reference points stay in float32: a
    rounded reference point would move boxes by pixels.

    Args:
        model: in float32; changed in place.
        device: where it will stay.
        dtype: of everything else.
    """
    fold_and_round(model, dtype)
    if device.type == "cpu":
        use_onednn(model)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.register_state_dict_pre_hook(_refuse)


def fold_and_round(model: ObjectDetectionModel | SegmentationModel, dtype: torch.dtype) -> None:
    """The part of `prepare_for_inference` that suits every device and every engine: norms in convolutions, and all that may
    be in `dtype`."""
    model.eval().requires_grad_(False)
    detector = _detector(model)
    detector.model.backbone.fold_norms()
    exact = [
        detector.class_labels_classifier,
        detector.bbox_predictor,
        detector.model.query_position_embeddings,
        *detector.model.decoder.exact_parts(),
    ]
    kept = {parameter for part in exact for parameter in part.parameters()}
    for values in (*model.parameters(), *model.buffers()):
        if values.is_floating_point() and values not in kept:
            values.data = values.data.to(dtype)


def compile_model(model: ObjectDetectionModel | SegmentationModel) -> bool:
    """Compile for prediction with `torch.compile`; the first images then take a minute or two.

    The first size has a graph of its own; a few more, whose sizes are variables, serve all others: on the CPU images as
    they are, the weights constants of the code; on a GPU recorded CUDA graphs, one for each canvas and size of batch, so
    canvases are rounded up to multiples of `GPU_CANVAS_STEP` pixels, batches that are not full are split into powers of
    two, and further shapes than `predict.device.MOST_GRAPHS` are computed without. Where `use_onednn` took effect, a CPU gains nothing by it (measured
    on R50: 0.96 times as fast), since oneDNN's fused operators are what the compiler would choose too.

    Returns:
        whether it is; False, with a warning, where there is no working compiler.
    """
    device = model.device
    if (reason := _why_no_compiler(device)) is not None:
        warnings.warn(f"compile=True has no effect: no working compiler for {device.type} ({reason})", stacklevel=3)
        return False
    # PyTorch counts the graphs of all models of a class together, and at 8 goes back to eager.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    if device.type == "cpu":
        model.compile(options={"freezing": True})
    elif device.type == "cuda":
        model.compile(options={"triton.cudagraphs": True})
        model.recorded_shapes = set()
        if _detector(model).model.backbone.is_plain_resnet:  # others would compute one size at a time
            model.canvas_step = GPU_CANVAS_STEP
    else:
        model.compile()
    model.is_compiled = True
    return True


def _detector(model: ObjectDetectionModel | SegmentationModel) -> ObjectDetectionModel:
    return model.detector if isinstance(model, SegmentationModel) else model


def check_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Raises ValueError unless `device` computes in `dtype`: in hardware, not many times slower by emulation."""
    choices = [t for t in (torch.float32, torch.bfloat16, torch.float16) if _computes_in(device, t)]
    if dtype not in choices:
        names = [str(t).removeprefix("torch.") for t in (dtype, *choices)]
        raise ValueError(f"dtype {names[0]} is not for this device ({device.type}); it has {', '.join(names[1:])}")


def _computes_in(device: torch.device, dtype: torch.dtype) -> bool:
    if dtype == torch.float32:
        return True
    if device.type == "cpu":
        if not torch.backends.mkldnn.is_available():
            return False
        ask = "_is_mkldnn_bf16_supported" if dtype == torch.bfloat16 else "_is_mkldnn_fp16_supported"
        return bool(getattr(torch.ops.mkldnn, ask)())
    if device.type == "cuda" and dtype == torch.bfloat16:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True


def _why_no_compiler(device: torch.device) -> str | None:
    """Compile a sum, anew, to see whether it works. None if so, else the first line of the error."""
    from torch._inductor import config

    try:
        with config.patch(fx_graph_cache=False):
            torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # compilers raise errors of many types, and prediction works without them
        return str(error).strip().splitlines()[0]
    return None


def _refuse(*_: Any) -> None:
    raise RuntimeError(
        "this model is prepared for prediction, its norms folded into its convolutions: to save or train it, load it "
        "with from_pretrained of its own class"
    )
