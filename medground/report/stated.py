"""What every answer that is written or sent states beside itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from medground.report.page import STATEMENT


def with_statement(
    result: Mapping[str, Any], untrained: Sequence[str], files: Mapping[str, str], notes: Sequence[str]
) -> dict[str, Any]:
    """Return the JSON-ready values of an answer with what a reader must know of it.

    Args:
        result: of the answer.
        untrained: the prompt kinds that the segmenter was given and was not trained for.
        files: names of what was written, by what it is.
        notes: what the files lack, one sentence each.
    """
    return {
        **result,
        "untrained_prompts": list(untrained),
        "files": dict(files),
        "notes": list(notes),
        "statement": STATEMENT,
    }
