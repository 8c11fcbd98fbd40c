"""What to show of a volume or a film: plane, slice and window."""

from dataclasses import dataclass
from typing import Literal, get_args

from medground.errors import ViewError, did_you_mean
from medground.images.windows import RULES, WINDOWS, window_numbers

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[str, ...] = get_args(Plane)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What of a volume or a film is shown, and how its values become grey. Pictures have no view.

    Raises:
        ViewError: for a plane or a window that does not exist, or a negative slice.
    """

    plane: str | None = None
    """``axial``, ``coronal`` or ``sagittal``; of a volume."""
    stack: int | None = None
    """Of a NIfTI file of several volumes, which of them, from 0."""
    slice: int | None = None
    """The voxel index across the plane, or the frame of a film; from 0."""
    window: str | None = None
    """A name of `WINDOWS`, a rule of `RULES`, or ``CENTRE,WIDTH``; None takes the file's own where it has one, else the
    percentiles."""

    def __post_init__(self) -> None:
        if self.plane is not None and self.plane not in PLANES:
            raise ViewError(f"there is no plane {self.plane!r}", hint=did_you_mean(self.plane, PLANES))
        if self.slice is not None and self.slice < 0:
            raise ViewError(f"slice {self.slice} is negative", hint="slices count from 0")
        if self.window is not None and self.window not in RULES:
            numbers = window_numbers(self.window)
            if numbers is None:
                hint = f"{did_you_mean(self.window, [*WINDOWS, *RULES])}; or CENTRE,WIDTH, for example 40,400"
                raise ViewError(f"there is no window {self.window!r}", hint=hint)
            if numbers[1] <= 0:
                raise ViewError(f"the window {self.window} has no width", hint="give CENTRE,WIDTH, for example 40,400")

    def refuse_on(self, name: str, kind: str, *words: str) -> None:
        """Raise if one of `words` (plane, slice, window) is set although this `kind` of image has no such choice.

        Raises:
            ViewError: so that nothing a user names is ignored.
        """
        for word in words:
            if getattr(self, word) is not None:
                raise ViewError(f"{name} is {kind}, which has no {word} to choose", hint=f"leave the {word} out")


PLAIN = View()
"""Nothing chosen."""
