"""The dict that the image processor returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class BatchFeature(dict[str, Any]):
    """A dict whose values can also be read as attributes and moved to a device together."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there are {', '.join(self)}") from None

    def to(
        self,
        device: str | int | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Move every tensor to a device, and the floating-point ones to a type; changes and returns this dict.

        Args:
            device: a device, or, as in transformers, a type.
            dtype: of floating-point tensors.
            options: of `Tensor.to`, such as `non_blocking`.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for name, value in self.items():
            self[name] = _moved(value, device, dtype, options)
        return self


def _moved(value: Any, device: Any, dtype: torch.dtype | None, options: Mapping[str, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None, **options)
    if isinstance(value, BatchFeature):
        return value.to(device, dtype, **options)
    return [_moved(item, device, dtype, options) for item in value] if isinstance(value, list) else value


def as_numpy(value: Any) -> Any:
    """A tensor, or tensors in (lists of) `BatchFeature`s, as NumPy arrays."""
    if isinstance(value, Tensor):
        return value.cpu().numpy()
    if isinstance(value, BatchFeature):
        return BatchFeature({name: as_numpy(item) for name, item in value.items()})
    return [as_numpy(item) for item in value]
