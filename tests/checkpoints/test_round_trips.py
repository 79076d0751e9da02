"""The sizes people have, through every dialect and back, with weights that hide nothing; outputs equal at each step.

The quick cases cover each backbone with each family, both positions and both widths; `-m slow` runs the whole grid.
"""

import copy
import itertools

import pytest
import torch
import transformers
from safetensors.torch import save_file
from small_models import FAMILIES, randomise, small_config

from conditional_detr import AutoModelForObjectDetection
from conditional_detr.checkpoints.names import to_original
from conditional_detr.models.family import family_of

pytestmark = pytest.mark.numeric

BACKBONES = {
    "R50": dict(backbone="resnet50"),
    "DC5-R50": dict(backbone="resnet50", dilation=True),
    "R101": dict(backbone="resnet101"),
}
DEFAULT_WIDTHS = dict(
    d_model=256, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
    encoder_attention_heads=8, decoder_attention_heads=8, num_queries=None, num_labels=91,
)  # fmt: skip
# A .pth without `args` is taken to have the papers' 8 heads.
WIDTHS = {"small": dict(encoder_attention_heads=8, decoder_attention_heads=8), "default": DEFAULT_WIDTHS}
QUICK = {
    ("conditional_detr", "R50", "sine", "default"),
    ("conditional_detr", "DC5-R50", "learned", "small"),
    ("conditional_detr", "R101", "sine", "small"),
    ("detr", "R50", "learned", "small"),
    ("detr", "DC5-R50", "sine", "default"),
    ("detr", "R101", "learned", "small"),
}
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in itertools.product(FAMILIES, BACKBONES, ("sine", "learned"), WIDTHS)
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "backbone", "positions", "widths"), CASES)
def test_weights_survive_every_dialect(family, backbone, positions, widths, tmp_path):
    config = small_config(
        family, backbone_norm="frozen", output_stride=32, position_embedding_type=positions,
        **{**BACKBONES[backbone], **WIDTHS[widths]},
    )  # fmt: skip
    first = randomise(family_of(family).detector(config))
    # Nothing in the weights shows dilation: the published files say it in their names.
    path = tmp_path / f"{backbone.lower()}.pth"
    torch.save({"model": to_original(first.state_dict(), first.weight_names)}, path)
    pixels = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    expected = first.double().eval()(pixels)

    def assert_same(model, tolerance=1e-12):
        found = copy.deepcopy(model).double().eval()(pixels)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.pred_boxes, expected.pred_boxes, rtol=0, atol=tolerance)

    from_original = AutoModelForObjectDetection.from_pretrained(path)
    assert from_original.config.dilation == config.dilation
    assert_same(from_original)  # A
    from_original.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "ours")
    assert_same(theirs, 1e-7)  # B: positions are computed in float32, there and here
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same(AutoModelForObjectDetection.from_pretrained(tmp_path / "theirs"))
    (tmp_path / "memory").mkdir()
    save_file(theirs.state_dict(), tmp_path / "memory/model.safetensors")
    config.save_pretrained(tmp_path / "memory")
    assert_same(AutoModelForObjectDetection.from_pretrained(tmp_path / "memory"))  # C
