"""The completion stage: every conversation is asked once, and one that cannot be asked costs itself alone."""

from collections.abc import Sequence

from medground.errors import InputError
from medground.pipeline.masks import check_counts
from medground.protocols import Reasoner
from medground.types import Completion, Fault, Messages, Sampling


def generate(reasoner: Reasoner, batch: Sequence[Messages], sampling: Sampling) -> list[list[Completion]]:
    """Return G completions of every conversation; those of one that the reasoner cannot take have a fault.

    Raises:
        RunError: if the reasoner gives another number of completions.
    """
    try:
        answers = reasoner.generate(batch, sampling)
    except InputError as error:
        if len(batch) > 1:
            return [generate(reasoner, [messages], sampling)[0] for messages in batch]
        refused = Completion(text="", frame=None, fault=Fault.UNUSABLE_INPUT, cause=str(error))
        return [[refused] * sampling.num_generations]
    check_counts("reasoner", [len(group) for group in answers], [sampling.num_generations] * len(batch))
    return answers
