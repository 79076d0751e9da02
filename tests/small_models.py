"""Models small enough for tests, and weights that hide nothing."""

from contextlib import contextmanager

import pytest
import torch

from conditional_detr.families import CONFIG_CLASSES
from conditional_detr.models.deploy import check_dtype
from conditional_detr.models.family import family_of

FAMILIES = tuple(CONFIG_CLASSES)


def skip_without(dtype):
    """Skip a test where the processor has no units for this type, so that `Detector` refuses it."""
    try:
        check_dtype(torch.device("cpu"), dtype)
    except ValueError as error:
        pytest.skip(str(error))


# A detector of a few thousand weights.
SMALL = dict(
    backbone="resnet18",
    backbone_norm="batch",
    output_stride=8,
    d_model=32,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    num_queries=10,
)


def small_config(family="conditional_detr", **values):
    return family_of(family).detector.config_class(**{**SMALL, "num_labels": 3, **values})


def small_model(family="conditional_detr", **values):
    return family_of(family).detector(small_config(family, **values))


def randomise(model, seed=0):
    """Give every weight and statistic a value of its own: at their defaults, wrong norms and biases stay hidden."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.1 * noise.abs())
            elif tensor.dim() == 1 or (tensor.dim() == 2 and tensor.abs().max() == 0):
                tensor.add_(0.1 * noise)
    return model


@contextmanager
def float64_by_default():
    """For transformers' losses, which make some of their constants in PyTorch's default type."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
