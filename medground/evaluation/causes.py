"""Why a result says little, in sentences that come before its numbers: what happened, how often, and what to change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medground.types import Fault

NEARLY = 0.9
"""From this share of answers or masks on, what became of them is the cause of the result."""
MANY = 0.1
"""From this share of answers on, a kind of fault has a sentence of its own."""

READ = "read what was written; a model that was not taught this format needs another prompt_interface or training"
_SAYS: Mapping[Fault, tuple[str, str]] = {
    Fault.CUT_OFF: (
        "cut off by the length limit{limit}",
        "raise {setting}, or give a model that ends its answers in this format",
    ),
    Fault.NO_ANSWER: ("without an answer block (no_answer)", READ),
    Fault.OUT_OF_FRAME: (
        "out of the frame (out_of_frame)",
        "set reasoner.frame to what the model's numbers count: pixel, permille or unit",
    ),
    Fault.NO_PROMPT: (
        "without what the recipe prompts the segmenter with (no_prompt)",
        "change prompt in the recipe, or have the prompt_interface ask for it; text_from: question needs no label",
    ),
    Fault.TRANSPORT: ("lost on the way (transport)", "look at their cause, fix it, and run again"),
    Fault.TIMEOUT: ("not there in time (timeout)", "raise reasoner.timeout, and run again"),
    Fault.UNUSABLE_INPUT: ("missing because the model cannot take the input (unusable_input)", "look at their cause"),
    Fault.SEGMENTER: ("without a mask because the segmenter failed (segmenter)", "look at their cause"),
    Fault.OUT_OF_MEMORY: (
        "without a mask because memory ran out (out_of_memory)",
        "give the segmenter another device or smaller images",
    ),
}
"""By fault: what the answers are, and what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What became of a set of answers."""

    answers: int
    faults: Mapping[str, int]
    """Kind of fault -> answers that have it."""
    masks: int = 0
    """Masks."""
    empty_masks: int = 0
    """Those of them without a pixel."""
    zero: bool = False
    """Whether every score is 0."""
    setting: str = "sampling.max_completion_length"
    """The recipe's word for the length limit."""
    limit: int | None = None
    """Its value in tokens, where it is known."""
    noun: str = "answers"

    @property
    def cut(self) -> str | None:
        """The sentence about answers cut off by the length limit, however few; None where there are none."""
        count = self.faults.get(Fault.CUT_OFF, 0)
        return self._sentence(Fault.CUT_OFF, count) if count else None

    @property
    def empty(self) -> str | None:
        """The sentence about empty masks, however few; None where there are none."""
        if not self.empty_masks:
            return None
        return (
            f"{self.empty_masks:,} of {self.masks:,} masks are empty: look at the boxes and points that prompted them; "
            "where those are right, change the segmenter or its settings."
        )

    def causes(self) -> list[str]:
        """Return why the result says little, the most frequent cause first; empty where nothing is wrong with most answers.

        >>> Outcomes(answers=8, faults={"cut_off": 8}, limit=64).causes()[0].partition(",")[0]
        '8 of 8 answers are cut off by the length limit of 64 tokens: raise sampling.max_completion_length'
        """
        sentences = [
            self._sentence(Fault(kind), count)
            for kind, count in sorted(self.faults.items(), key=lambda pair: (-pair[1], pair[0]))
            if count >= MANY * self.answers and (self._nearly_all or kind == Fault.CUT_OFF)
        ]
        if self.empty is not None and self.empty_masks >= NEARLY * self.masks:
            sentences.append(self.empty)
        if self.zero and self.answers and not self._nearly_all:
            sentences.append(
                f"Every score of {self.answers:,} {self.noun} is 0, though most can be read: look where they point; if that "
                "is another place or size than meant, set reasoner.frame to what the model's numbers count."
            )
        return sentences

    @property
    def _nearly_all(self) -> bool:
        return self.answers > 0 and sum(self.faults.values()) >= NEARLY * self.answers

    def _sentence(self, fault: Fault, count: int) -> str:
        what, change = _SAYS.get(fault, (f"of no use ({fault})", READ))
        limit = f" of {self.limit:,} tokens" if self.limit is not None else ""
        be = "is" if count == 1 else "are"
        what, change = what.format(limit=limit), change.format(setting=self.setting)
        return f"{count:,} of {self.answers:,} {self.noun} {be} {what}: {change}."


def is_empty(mask: Any) -> bool:
    """Return True if a `medground.types.Mask` has no pixel, and the segmenter does not say that nothing is there."""
    return not bool(mask.data.any()) and not mask.absent


def total(parts: Iterable[Mapping[str, Any]], prefix: str) -> dict[str, int]:
    """Return counts under names that begin with `prefix`, added up over metrics, by what follows it.

    >>> total([{"faults/bad_json": 2.0, "loss": 1.0}, {"faults/bad_json": 1.0}], "faults/")
    {'bad_json': 3}
    """
    totals: dict[str, int] = {}
    for key, value in (pair for part in parts for pair in part.items()):
        if key.startswith(prefix) and value:
            totals[key.removeprefix(prefix)] = totals.get(key.removeprefix(prefix), 0) + int(value)
    return totals
