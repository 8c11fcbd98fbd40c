"""A region/text similarity term on open_clip."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_rewards(register: Register) -> None:
    """Offer `region_text`."""
    from medground_clip.region_text import RegionText

    register("region_text", RegionText)


@hookimpl
def self_check() -> None:
    """Compare one region with one text, by a network of random weights."""
    from medground_clip import network

    network.self_check()
