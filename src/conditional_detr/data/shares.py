"""The shares of images that become train, val and test where a data set has no splits. No NumPy here: the command line reads
this file."""

from __future__ import annotations

import math

from ..messages import shown

SHARES = "0.8,0.1,0.1"  # by default


def shares_of(text: str) -> list[float]:
    """The shares of train, val and, if there is a third, test.

    Raises:
        ValueError: they are none.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    right = len(shares) in (2, 3) and all(math.isfinite(share) and share >= 0 for share in shares)
    if not right or shares[0] == 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"split is {shown(text)}; expected shares of train, val and test that add up to 1, such as {SHARES}"
        )
    return shares
