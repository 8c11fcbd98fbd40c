"""An extension of griffe: a paragraph of a docstring that starts with ``>>>`` is shown as code."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    """Put every doctest paragraph into a fence of its own."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = _EXAMPLE.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", obj.docstring.value)
            obj.docstring.value = re.sub(r" +# doctest: \+\w+", "", text)
