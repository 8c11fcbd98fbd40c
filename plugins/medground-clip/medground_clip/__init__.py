"""A region/text similarity term on open_clip."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_rewards(register: Register) -> None:
    """Offer `region_text`."""
    from medground_clip.region_text import RegionText

    register("region_text", RegionText)
