"""A region/text similarity term on open_clip."""
