"""Where a cell of the feature map, or a reference point, is: embeddings of positions."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..precision import at_least_float32

MAX_LEARNED_CELLS = 50  # per side: the size of the original's tables


def sine_frequencies(count: int, device: torch.device) -> Tensor:
    """Divisors 10000^(2⌊k/2⌋/count) for k in 0…count-1. (count,) float32."""
    k = torch.arange(count, device=device)
    return 10000 ** (2 * (k // 2) / count)


def interleaved_sine(angles: Tensor) -> Tensor:
    """Sine of even columns, cosine of odd ones, in place of each. (…, K) -> (…, K)."""
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


def sine_position_embedding(cell_mask: Tensor, d_model: int) -> Tensor:
    """Embed each cell by its count of real cells along y and x, scaled so that the last one is 2π.

    Padding changes nothing: it is not counted, and every image's own last count is the divisor.

    Args:
        cell_mask: (B, H, W) bool, True where a cell belongs to the image.
        d_model: width of the embedding; the y half comes first.

    Returns:
        (B, H·W, d_model) float32.
    """
    divisors = sine_frequencies(d_model // 2, cell_mask.device)
    halves = []
    for axis in (1, 2):
        count = cell_mask.cumsum(axis, dtype=torch.float32)
        count = count / (count.narrow(axis, -1, 1) + 1e-6) * (2 * math.pi)  # (B, H, W)
        halves.append(interleaved_sine(count.flatten(1)[..., None] / divisors))
    return torch.cat(halves, dim=-1)


@lru_cache(maxsize=32)
def whole_sine_position_embedding(height: int, width: int, d_model: int, device: torch.device) -> Tensor:
    """`sine_position_embedding` of height × width cells without padding, kept for the next image of this shape.

    Returns:
        (1, height·width, d_model) float32; shared, so not to be changed.
    """
    with torch.inference_mode(False):  # training may be the next to use it
        return sine_position_embedding(torch.ones(1, height, width, dtype=torch.bool, device=device), d_model)


def sine_point_embedding(points: Tensor, d_model: int) -> Tensor:
    """Embed 2-D points with the frequencies of the cells (section 3.3 of Conditional DETR).

    Args:
        points: (…, 2) as (x, y), relative to the image, in [0, 1].

    Returns:
        (…, d_model), the y half first; float32 at least.
    """
    divisors = sine_frequencies(d_model // 2, points.device)
    angles = at_least_float32(points)[..., None] * (2 * math.pi) / divisors  # (…, 2, d/2)
    x, y = interleaved_sine(angles).unbind(-2)
    return torch.cat((y, x), dim=-1)


class LearnedPositionEmbedding(nn.Module):
    """Two tables of 50 entries, one for columns (first half) and one for rows."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.row_embeddings = nn.Embedding(MAX_LEARNED_CELLS, d_model // 2)
        self.column_embeddings = nn.Embedding(MAX_LEARNED_CELLS, d_model // 2)
        for table in (self.row_embeddings, self.column_embeddings):
            nn.init.uniform_(table.weight)

    def forward(self, height: int, width: int) -> Tensor:
        """Return (1, height·width, d_model).

        Raises:
            ValueError: more than 50 cells on a side, for which nothing was learned.
        """
        if max(height, width) > MAX_LEARNED_CELLS:
            raise ValueError(
                f"learned positions reach {MAX_LEARNED_CELLS} cells a side, this feature map has {height}×{width}: "
                "use smaller images, a larger output_stride, or position_embedding_type='sine'"
            )
        columns = self.column_embeddings.weight[None, :width].expand(height, -1, -1)
        rows = self.row_embeddings.weight[:height, None].expand(-1, width, -1)
        return torch.cat((columns, rows), dim=-1).flatten(0, 1)[None]
