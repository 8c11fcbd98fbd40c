"""Reward terms on boxes, points, masks and format."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_rewards(register: Register) -> None:
    """Offer the terms: corrected by default, the released number with ``released: true``."""
    from medground_rewards import abstention, boxes, flags, form, masks, points, regions

    terms = {
        "format_think": form.FormatThink,
        "format_seg": form.FormatSeg,
        "bbox_iou": boxes.BboxIou,
        "bbox_align": boxes.BboxAlign,
        "bbox_scale": boxes.BboxScale,
        "points_dice": points.PointsDice,
        "points_align": points.PointsAlign,
        "points_angle": points.PointsAngle,
        "mask_dice": masks.MaskDice,
        "mask_iou": masks.MaskIou,
        "boundary": masks.Boundary,
        "points_in_mask": masks.PointsInMask,
        "regions_f1": regions.RegionsF1,
        "regions_mask_f1": regions.RegionsMaskF1,
        "confidence": regions.Confidence,
        "abstention": abstention.Abstention,
        "bbox_position_valid": flags.BboxPositionValid,
        "bbox_area_valid": flags.BboxAreaValid,
        "points_position_valid": flags.PointsPositionValid,
        "points_spread_valid": flags.PointsSpreadValid,
    }
    for name, term in terms.items():
        register(name, term)


@hookimpl
def self_check() -> None:
    """Score one perfect answer."""
    from medground_rewards import boxes, examples

    assert boxes.BboxIou()(examples.rollout()).value == 1.0
