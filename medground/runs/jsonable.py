"""Values as strict JSON can hold them."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return JSON-ready plain data: NaN and infinities become null, what JSON has no word for becomes text.

    A dataclass becomes an object of its fields, without those that are None by default and still are.

    >>> plain({"iou": np.float32(0.5), "worst": float("nan"), "at": (1, 2)})
    {'iou': 0.5, 'worst': None, 'at': [1, 2]}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if is_dataclass(value):
        pairs = [(field, getattr(value, field.name)) for field in fields(value)]
        return {field.name: plain(item) for field, item in pairs if item is not None or field.default is not None}
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)
