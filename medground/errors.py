"""What can go wrong, and how it is said.

Every error a user can meet is one sentence that names the culprit, a hint that says what to do, and the exit
code the command line ends with. Anything else that escapes is our bug and exits with 70.
"""

import difflib
from collections.abc import Iterable


class MedgroundError(Exception):
    """A failure with one sentence for people; the command line exits with ``exit_code``.

    Args:
        message: one sentence naming the culprit.
        hint: what to do about it, or None where the sentence says it already.

    >>> str(MedgroundError("the file a.png does not exist", hint="check the path"))
    'the file a.png does not exist (check the path)'
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class RunError(MedgroundError):
    """A run started and could not do what it promised.

    >>> RunError("the disk is full").exit_code
    1
    """


class RecipeError(MedgroundError):
    """A recipe, or an override of one, cannot be used as written.

    >>> RecipeError("segmenter must be a component name, got 3").exit_code
    2
    """

    exit_code = 2


class InputError(MedgroundError):
    """An image, mask, manifest or data file cannot be read.

    >>> InputError("scan.dcm is damaged").exit_code
    3
    """

    exit_code = 3


class ViewError(InputError):
    """A volume or a film was given without saying which slice of it is meant, or one that it does not have.

    >>> ViewError("scan.nii needs a plane", hint="pass plane='axial'").exit_code
    2
    """

    exit_code = 2


class UsageError(MedgroundError):
    """The combination of commands or arguments is invalid.

    >>> UsageError("the question is given twice", hint="leave it out").exit_code
    2
    """

    exit_code = 2


class PluginError(MedgroundError):
    """A component is missing, broken, ambiguous, or lacks the extra it needs.

    >>> PluginError("segmenter 'medsma' is unknown", hint="did you mean 'medsam'?").exit_code
    4
    """

    exit_code = 4


class Interrupted(MedgroundError):
    """The run was asked to stop, saved what it had, and can be resumed.

    >>> Interrupted("stopped after step 7").exit_code
    5
    """

    exit_code = 5


class SegmenterError(MedgroundError):
    """A segmenter could not answer for some prompts; those samples carry a fault, the run goes on.

    >>> SegmenterError("the prompt has no area").exit_code
    1
    """


class SegmenterMemoryError(SegmenterError):
    """A segmenter ran out of memory even for one prompt; the fault of those samples is out_of_memory.

    >>> SegmenterMemoryError("4 GB are needed").exit_code
    1
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the nearest of `known`, else the list of what exists.

    >>> did_you_mean("medsma", ["medsam", "toy"])
    "did you mean 'medsam'?"
    >>> did_you_mean("zzz", ["medsam", "toy"])
    'known: medsam, toy'
    >>> did_you_mean("zzz", [])
    'none are known'
    """
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(options)}" if options else "none are known"
