"""The released training rewards, to the digit: soft, hard and base, quirks included.

Everything here is plain Python arithmetic on the numbers exactly as they were read (int, float or bool; NaN, infinity
and integers of any length pass), because what raises, what rounds and what turns into NaN is part of what is
reproduced. The order of operands in ``min`` and ``max`` decides where a NaN survives; do not tidy it. For terms worth
training on, see the corrected ones beside this module.

Source: the reward functions of MedReasoner (arXiv 2508.08177) as released.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from medground.types import RewardResult, Rollout

Mode = Literal["soft", "hard", "base", "base_fixed"]
Values = dict[str, float]

BOX_KEYS = ("bbox_iou", "bbox_align", "bbox_scale", "bbox_position_valid", "bbox_area_valid")
POINT_KEYS = ("points_dice", "points_align", "points_angle", "points_position_valid", "points_spread_valid")

_RAISES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What malformed answers and truths make the released arithmetic raise; it swallows them, so they are data here too."""


def released_result(term: str, rollout: Rollout, mode: Mode) -> RewardResult:
    """Return the released value of one term for one rollout; an exception of the released code gives 0 and is named.

    A released NaN or infinity is not a number a rubric can add: it abstains and says so in ``details["released"]``.
    """
    truth = published(rollout)
    if truth is None:
        return RewardResult(None, {"undefined": "the target is not one region"})
    try:
        value = _GROUPS[mode, term](rollout.grounding.raw, truth, mode)[term]
    except _RAISES as error:
        return RewardResult(0.0, {"raised": type(error).__name__})
    if math.isfinite(value):
        return RewardResult(float(value))
    return RewardResult(None, {"released": str(value)})


def published(rollout: Rollout) -> Mapping[str, Any] | None:
    """Return the truth as a published file states it, else the target's own numbers; None where it is not one region."""
    target = rollout.sample.target
    if target.published is not None:
        return target.published
    region = target.region
    if region is None or region.box is None:
        return None
    return {"bbox_2d": list(region.box), "point_2d": [list(point) for point in region.points]}


def log_curve(value: float) -> float:
    """Return the logarithmic smoothing: 0.1 at 0, 1 at 1, and more than 1 beyond."""
    return 0.1 + 0.9 * math.log(3 * value + 1) / math.log(4)


def exp_curve(value: float, centre: float) -> float:
    """Return the logistic smoothing: about 1 at 0, 0.1 at 2."""

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(3 * (x - centre)))

    return 0.1 + 0.9 * (logistic(value) - logistic(2)) / (logistic(0) - logistic(2) + 1e-8)


def penalised(value: float, first: float, second: float) -> float:
    """Take at most 18.75 % off for two validity flags, clip to [0, 1], then round to 4 decimals.

    The two products are added rather than the factors, which is what decides 0.08125 -> 0.0812.
    """
    return round(min(max(value * 0.7 + value * 0.3 * (first + second) / 2, 0), 1), 4)


def position_flag(points: Any, box: Any) -> float:
    """Return 1, 0.5 or 0.25: halved for each of two points outside the closed box."""
    flag = 1.0
    for x, y in (points[0], points[1]):
        flag *= 1.0 if box[0] <= x <= box[2] and box[1] <= y <= box[3] else 0.5
    return flag


def box_terms(raw: Mapping[str, Any] | None, truth: Mapping[str, Any], mode: Mode) -> Values:
    """Return the box terms and flags of modes soft and hard; in soft the hard ones are 0.

    Raises:
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError: as the released function does inside its
            one ``try``; the caller gives 0 for every key then.
    """
    box, truth_box = _numbers((raw or {})["bbox"], 4), truth["bbox_2d"]
    x1, y1, x2, y2 = box
    gx1, gy1, gx2, gy2 = truth_box
    width, height, truth_width, truth_height = x2 - x1, y2 - y1, gx2 - gx1, gy2 - gy1
    area, truth_area = max(0, width) * max(0, height), max(0, truth_width) * max(0, truth_height)
    shared = max(0, min(x2, gx2) - max(x1, gx1)) * max(0, min(y2, gy2) - max(y1, gy1))
    position = position_flag(truth["point_2d"], box)
    size = 1.0 if 0.5 * truth_area < area < 2 * truth_area else 0.5
    values = dict.fromkeys(BOX_KEYS, 0.0) | {"bbox_position_valid": position, "bbox_area_valid": size}
    values["bbox_iou"] = penalised(log_curve(shared / (area + truth_area - shared + 1e-5)), position, size)
    if mode == "hard":
        corners = (abs(x1 - gx1) + abs(y1 - gy1) + abs(x2 - gx2) + abs(y2 - gy2)) / 4
        values["bbox_align"] = penalised(exp_curve(_by_diagonal(corners, truth_box), 1), position, size)
        log_area = math.log((width * height + 1e-6) / (truth_width * truth_height + 1e-6))
        log_ratio = math.log((width / height + 1e-6) / (truth_width / truth_height + 1e-6))
        scale = min(math.sqrt(log_area**2 + log_ratio**2), 1)
        values["bbox_scale"] = penalised(exp_curve(scale, 0.5), position, size)
    return values


def point_terms(raw: Mapping[str, Any] | None, truth: Mapping[str, Any], mode: Mode) -> Values:
    """Return the point terms and flags of modes soft and hard; in soft the hard ones are 0. Raises as `box_terms`."""
    answer = raw or {}
    p1, p2 = _numbers(answer["points_1"], 2), _numbers(answer["points_2"], 2)
    g1, g2 = truth["point_2d"][0], truth["point_2d"][1]
    position = position_flag((p1, p2), truth["bbox_2d"])
    spread = 1.0 if _distance(p1, p2) > 10 else 0.5
    values = dict.fromkeys(POINT_KEYS, 0.0) | {"points_position_valid": position, "points_spread_valid": spread}
    values["points_dice"] = penalised(log_curve(_twice_disc_iou((p1, p2), (g1, g2))), position, spread)
    if mode == "hard":
        straight, crossed = _half_l1(p1, g1) + _half_l1(p2, g2), _half_l1(p1, g2) + _half_l1(p2, g1)
        error = min(straight, crossed) / 2
        values["points_align"] = penalised(exp_curve(_by_diagonal(error, truth["bbox_2d"]), 1), position, spread)
        u, v = (p2[0] - p1[0], p2[1] - p1[1]), (g2[0] - g1[0], g2[1] - g1[1])
        lengths = (_distance(p1, p2) + 1e-8) * (_distance(g1, g2) + 1e-8)
        values["points_angle"] = penalised(log_curve(abs((u[0] * v[0] + u[1] * v[1]) / lengths)), position, spread)
    return values


def base_iou(raw: Mapping[str, Any] | None, truth: Mapping[str, Any], mode: Mode) -> Values:
    """Return 1 where the inclusive-pixel IoU exceeds 0.5. As released always 0: it calls a string method on a dictionary."""
    if mode == "base":
        return {"bbox_iou": 0.0}
    x1, y1, x2, y2 = (raw or {})["bbox"]
    gx1, gy1, gx2, gy2 = truth["bbox_2d"]
    shared = max(0, min(x2, gx2) - max(x1, gx1) + 1) * max(0, min(y2, gy2) - max(y1, gy1) + 1)
    area = max(0, x2 - x1 + 1) * max(0, y2 - y1 + 1)
    truth_area = max(0, gx2 - gx1 + 1) * max(0, gy2 - gy1 + 1)
    return {"bbox_iou": 1.0 if shared / (area + truth_area - shared) > 0.5 else 0.0}


def base_box_l1(raw: Mapping[str, Any] | None, truth: Mapping[str, Any], mode: Mode) -> Values:
    """Return 1 where the mean absolute corner difference is below 10 px. As released always 0, by the same bug."""
    if mode == "base":
        return {"bbox_align": 0.0}
    x1, y1, x2, y2 = (raw or {})["bbox"]
    gx1, gy1, gx2, gy2 = truth["bbox_2d"]
    return {"bbox_align": 1.0 if (abs(x1 - gx1) + abs(y1 - gy1) + abs(x2 - gx2) + abs(y2 - gy2)) / 4 < 10 else 0.0}


def base_points_l1(raw: Mapping[str, Any] | None, truth: Mapping[str, Any], mode: Mode) -> Values:
    """Return 1 where both points, truncated, lie in the predicted box and are within 100 px of the truth's on average."""
    answer = raw or {}
    x1, y1, x2, y2 = answer["bbox"]
    p1, p2 = ((int(answer[key][0]), int(answer[key][1])) for key in ("points_1", "points_2"))
    g1, g2 = truth["point_2d"][0], truth["point_2d"][1]
    if not all(x1 <= x <= x2 and y1 <= y <= y2 for x, y in (p1, p2)):
        return {"points_align": 0.0}
    straight, crossed = _distance(p1, g1) + _distance(p2, g2), _distance(p1, g2) + _distance(p2, g1)
    return {"points_align": 1.0 if min(straight, crossed) / 2 < 100 else 0.0}


def _numbers(value: Any, count: int) -> list[Any]:
    """Return a list of exactly `count` ints or floats; a bool is an int here, as it was there."""
    if isinstance(value, list) and len(value) == count and all(isinstance(item, int | float) for item in value):
        return value
    raise ValueError(f"not a list of {count} numbers")


def _by_diagonal(error: float, box: Any) -> float:
    diagonal = math.sqrt((box[2] - box[0]) ** 2 + (box[3] - box[1]) ** 2)
    return min(max(error / (diagonal + 1e-5), 0), 2)


def _distance(a: Any, b: Any) -> float:
    return math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)


def _half_l1(a: Any, b: Any) -> float:
    half: float = (abs(a[0] - b[0]) + abs(a[1] - b[1])) / 2
    return half


def _twice_disc_iou(a: Any, b: Any) -> float:
    """Return 2·O/(U + 1e-5) of the discs over two diameters: named Dice in the release, but twice the IoU, up to 2."""
    (centre_a, r), (centre_b, s) = _disc(*a), _disc(*b)
    d = _distance(centre_a, centre_b)
    if d >= r + s - 1e-5:
        shared = 0.0
    elif d <= abs(r - s) + 1e-5:
        shared = math.pi * min(r, s) ** 2
    else:
        alpha = math.acos(min(max((d**2 + r**2 - s**2) / (2 * d * r), -1), 1))
        beta = math.acos(min(max((d**2 + s**2 - r**2) / (2 * d * s), -1), 1))
        kite = math.sqrt(max((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s), 0))
        shared = r**2 * alpha + s**2 * beta - 0.5 * kite
    return 2 * shared / (math.pi * r**2 + math.pi * s**2 - shared + 1e-5)


def _disc(p: Any, q: Any) -> tuple[tuple[float, float], float]:
    return ((p[0] + q[0]) / 2, (p[1] + q[1]) / 2), _distance(p, q) / 2 + 1e-5


_GROUPS: dict[tuple[Mode, str], Callable[[Mapping[str, Any] | None, Mapping[str, Any], Mode], Values]] = {
    **{(mode, key): box_terms for mode in ("soft", "hard") for key in BOX_KEYS},
    **{(mode, key): point_terms for mode in ("soft", "hard") for key in POINT_KEYS},
    **{(mode, "bbox_iou"): base_iou for mode in ("base", "base_fixed")},
    **{(mode, "bbox_align"): base_box_l1 for mode in ("base", "base_fixed")},
    **{(mode, "points_align"): base_points_l1 for mode in ("base", "base_fixed")},
}


def modes(term: str) -> tuple[Mode, ...]:
    """Return the modes in which the release has a counterpart of `term`."""
    return tuple(mode for mode, key in _GROUPS if key == term)
