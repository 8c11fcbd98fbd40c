"""Pictures inside a page, and the one legend of what is drawn on them."""

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from medground.images.legend import Shape


def picture(image: Any, alt: str, side: int = 480) -> Markup:
    """Return a picture inside the page.

    Args:
        image: of Pillow.
        alt: what it shows, for those who do not see it.
        side: its longer side is made no larger than this, px.
    """
    from PIL import features

    kind = "webp" if features.check("webp") else "jpeg"
    small = image.convert("RGB")
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, kind, quality=80)
    source = f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
    return Markup(
        f'<img src="{source}" alt="{escape(alt)}" width="{small.width}" height="{small.height}" loading="lazy">'
    )


def legend(names: Iterable[str] = ("truth", "mask", "true box", "box", "key points")) -> Markup:
    """Return what the lines and colours on a page's pictures mean.

    Args:
        names: keys of `medground.images.legend.LEGEND`.
    """
    from medground.images.legend import LEGEND

    entries = [
        Markup(f'<li><svg class="key" viewBox="0 0 24 16" aria-hidden="true">{_swatch(*LEGEND[name])}</svg>{name}</li>')
        for name in names
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def _swatch(shape: "Shape", colour: tuple[int, int, int]) -> str:
    """Return an entry's drawing, on the dark ground that pictures have."""
    ink = "#{:02x}{:02x}{:02x}".format(*colour)
    line = f'stroke="{ink}" stroke-width="2" fill="none"'
    filled = f'fill="{ink}" fill-opacity=".4" stroke="{ink}" stroke-width="2"'
    drawn = {
        "contour": f'<path d="M3 8H21" stroke-dasharray="4 2" {line}/>',
        "dashes": f'<rect x="4" y="3" width="16" height="10" stroke-dasharray="4 2" {line}/>',
        "frame": f'<rect x="4" y="3" width="16" height="10" {line}/>',
        "fill": f'<path d="M4 8a8 5 0 1 0 16 0a8 5 0 1 0 -16 0" {filled}/>',
        "dot": f'<circle cx="12" cy="8" r="5" fill="{ink}" stroke="#ffffff" stroke-width="2"/>',
    }
    return f'<rect width="24" height="16" rx="2" fill="#12151b"/>{drawn[shape]}'
