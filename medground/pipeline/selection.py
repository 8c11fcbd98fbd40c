"""Which parts of a region prompt the segmenter, from the words that say so."""

from collections.abc import Sequence

from medground.errors import RecipeError, did_you_mean
from medground.types import ChosenKind, PromptSelection, TextSource


def selection_of(prompt: str | Sequence[str], text_from: str) -> PromptSelection:
    """Return what the words of a recipe or a caller choose.

    Raises:
        RecipeError: if a word is none of them, or there is none.
    """
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    unknown = [word for word in words if word not in list(ChosenKind)]
    if unknown or not words:
        hint = did_you_mean(unknown[0], list(ChosenKind)) if unknown else "for example prompt=box"
        raise RecipeError(f"prompt must be one or more of {', '.join(ChosenKind)}: {prompt!r}", hint=hint)
    if text_from not in list(TextSource):
        raise RecipeError(f"text_from must be label or question: {text_from!r}", hint="for example text_from=question")
    return PromptSelection(tuple(ChosenKind(word) for word in words), TextSource(text_from))
