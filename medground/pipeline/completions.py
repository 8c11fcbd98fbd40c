"""The completion stage: every conversation is asked once, and one that cannot be asked costs itself alone."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Protocol, runtime_checkable

from medground.errors import InputError
from medground.pipeline.cache import StageCache, query_key
from medground.pipeline.masks import check_counts
from medground.protocols import PromptInterface, Reasoner
from medground.types import Completion, Fault, Messages, Query, Sampling

AT_ONCE = 32
"""Conversations about parts of queries that a reasoner is given in one call: an image has hundreds of tiles."""


@runtime_checkable
class SplittingInterface(PromptInterface, Protocol):
    """A prompt interface that asks several times per query: its `render` is called with every part of a query.

    Its `parse` reads what `join` made, so that such an answer is one completion everywhere else.
    """

    def split(self, query: Query) -> list[Query]:
        """Return the parts of a query: one or more, always the same."""

    def join(self, query: Query, completions: Sequence[Completion]) -> Completion:
        """Return one completion that holds one of every part, in the order of `split`."""


def kept(
    queries: Sequence[Query],
    sampling: Sampling,
    answer: Callable[[Sequence[Query]], list[list[Completion]]],
    cache: StageCache | None,
    feeds: str | None,
) -> list[list[Completion]]:
    """Return G completions per query: those that the cache keeps, and those of the others, which are kept unless one failed.

    Args:
        queries: what is asked.
        sampling: how completions are drawn.
        answer: gives the completions of some queries; called only where something is not in the cache.
        cache: where completions are kept, if at all.
        feeds: stands for what makes the completions in the cache; None where nothing does.
    """
    if cache is None or feeds is None:
        return answer(queries) if queries else []
    keys = [query_key(feeds, query, sampling) for query in queries]
    groups = [cache.completions(key) for key in keys]
    missing = [index for index, group in enumerate(groups) if group is None]
    answers = answer([queries[index] for index in missing]) if missing else []
    for index, group in zip(missing, answers, strict=True):
        groups[index] = group
        if all(completion.fault is None for completion in group):
            cache.put_completions(keys[index], group)
    return [group for group in groups if group is not None]


def ask(
    reasoner: Reasoner, interface: PromptInterface, queries: Sequence[Query], sampling: Sampling
) -> list[list[Completion]]:
    """Return G completions per query, each of one conversation, or joined from those about the parts of the query.

    Raises:
        RunError: as `generate`.
    """
    if not isinstance(interface, SplittingInterface):
        return generate(reasoner, [interface.render(query) for query in queries], sampling)
    parts = [interface.split(query) for query in queries]
    flat = list(chain.from_iterable(parts))
    batches = (flat[start : start + AT_ONCE] for start in range(0, len(flat), AT_ONCE))
    groups = chain.from_iterable(
        generate(reasoner, [interface.render(part) for part in batch], sampling) for batch in batches
    )
    return [
        [interface.join(query, column) for column in zip(*[next(groups) for _ in own], strict=True)]
        for query, own in zip(queries, parts, strict=True)
    ]


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
