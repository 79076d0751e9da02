"""Focal and Dice losses of masks, at the resolution of the image and in bounded memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import at_least_float32

MASK_STRIDE = 4  # pixels per cell of predicted masks
FOCAL_ALPHA = 0.25
CHUNK_BYTES = 256 * 2**20
COPIES = 8  # full-size float32 maps of an object that live at once while its losses and their gradients are computed


def mask_losses(logits: Tensor, targets: list[Tensor], sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Compare predicted masks with objects' masks, each over the real pixels of its image.

    A mask is cut to the cells of its image, ceil(size / 4), and enlarged bilinearly to the image's own size; so the
    losses do not depend on the canvas, as they do in the originals, which average over padding too.

    Args:
        logits: (N, h, w) at stride 4 of the canvas, the masks of image 0 first.
        targets: for each image its objects' masks in the order of `logits`, (n, H, W) bool or 0/1, at least as large as
            the image; on any device. The n add up to N.
        sizes: (height, width) of each image in pixels, within the canvas.

    Returns:
        Sums over objects of the focal loss (α = 0.25, γ = 2; mean over pixels) and of the Dice loss (with 1 added above
        and below the fraction), each ().
    """
    nothing = at_least_float32(logits).sum() * 0  # so that a batch without objects reaches every weight too
    focal = dice = nothing
    start = 0
    for masks, (height, width) in zip(targets, sizes, strict=True):
        own = logits[start : start + len(masks), : -(-height // MASK_STRIDE), : -(-width // MASK_STRIDE)]
        start += len(masks)
        chunk = max(1, CHUNK_BYTES // (COPIES * 4 * height * width))
        for some, target in zip(own.split(chunk), masks[:, :height, :width].split(chunk), strict=True):
            if len(some):
                focal_part, dice_part = _MaskLosses.apply(at_least_float32(some), target)
                focal, dice = focal + focal_part, dice + dice_part
    return focal, dice


class _MaskLosses(torch.autograd.Function):
    """Focal and Dice sums of masks (n, h, w) against (n, H, W), with their gradients.

    The gradients are computed with the values and kept at the size of the prediction: a sixteenth of what recording the
    operations at full size would keep for each of a dozen of them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        target = masks.to(logits.device, non_blocking=True).flatten(1).to(logits.dtype)  # (n, H·W)
        with torch.enable_grad():
            small = logits.detach().requires_grad_()
            x = F.interpolate(small[:, None], size=masks.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
            p = x.sigmoid()
            off = p + target - 2 * p * target  # distance of the probability from what it should be
            weight = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
            entropy = F.softplus(x) - x * target
            focal = (weight * off.square() * entropy).mean(1).sum()
            dice = (1 - (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)).sum()
            (focal_gradient,) = torch.autograd.grad(focal, small, retain_graph=True)
            (dice_gradient,) = torch.autograd.grad(dice, small)
        ctx.save_for_backward(focal_gradient, dice_gradient)
        return focal.detach(), dice.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        focal_gradient, dice_gradient = ctx.saved_tensors
        return focal_gradient * grads[0] + dice_gradient * grads[1], None
