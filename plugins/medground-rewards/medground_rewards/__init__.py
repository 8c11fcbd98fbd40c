"""Reward terms on boxes, points, masks and format."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_rewards(register: Register) -> None:
    """Offer the terms: corrected by default, the released number with ``released: true``."""
    from medground_rewards import boxes, flags, form, masks, points

    register("format_think", form.FormatThink)
    register("format_seg", form.FormatSeg)
    register("bbox_iou", boxes.BboxIou)
    register("bbox_align", boxes.BboxAlign)
    register("bbox_scale", boxes.BboxScale)
    register("points_dice", points.PointsDice)
    register("points_align", points.PointsAlign)
    register("points_angle", points.PointsAngle)
    register("mask_dice", masks.MaskDice)
    register("mask_iou", masks.MaskIou)
    register("boundary", masks.Boundary)
    register("points_in_mask", masks.PointsInMask)
    register("bbox_position_valid", flags.BboxPositionValid)
    register("bbox_area_valid", flags.BboxAreaValid)
    register("points_position_valid", flags.PointsPositionValid)
    register("points_spread_valid", flags.PointsSpreadValid)


@hookimpl
def self_check() -> None:
    """Score one perfect answer."""
    from medground_rewards import boxes, examples

    assert boxes.BboxIou()(examples.rollout()).value == 1.0
