"""Values as strict JSON can hold them."""

import math
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Any value as JSON-ready plain data: NaN and infinities become null, what JSON has no word for becomes text.

    >>> plain({"iou": np.float32(0.5), "worst": float("nan"), "at": (1, 2)})
    {'iou': 0.5, 'worst': None, 'at': [1, 2]}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)
