"""Does a reasoner keep the promises of `medground.protocols.Reasoner`?"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from medground.frames import Frame
from medground.hookspecs import Factory
from medground.protocols import Reasoner
from medground.testing import examples
from medground.testing.findings import ConformanceReport, Findings, make, shown
from medground.types import Completion, Messages, Sampling, image_of, text_of


def check_reasoner(factory: Factory, /, *, quick: bool = False, **arguments: Any) -> ConformanceReport:
    """Check a reasoner made by ``factory(**arguments)`` on three conversations, greedy and sampled.

    Args:
        factory: makes the reasoner.
        quick: try greedy completions alone.
        arguments: of the factory.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    reasoner = make(factory, arguments, findings)
    greedy = Sampling(num_generations=1, temperature=0.0, max_completion_length=64, seed=7)
    words = "three conversations together, alone, backwards and again"
    checks: dict[str, Callable[[], None]] = {
        "no conversations": partial(_check_none, reasoner, findings),
        f"{words}, greedy": partial(_check_sampling, reasoner, greedy, findings),
    }
    if not quick:
        sampling = replace(greedy, num_generations=3, temperature=1.0)
        checks[f"{words}, three samples of each"] = partial(_check_sampling, reasoner, sampling, findings)
    findings.run(checks)
    return findings.conclude()


def _check_none(reasoner: Reasoner, findings: Findings) -> None:
    with findings.attempt("no conversations give []"):
        none = reasoner.generate([], Sampling())
        findings.expect(none == [], "no conversations give []", shown(none))


def _check_sampling(reasoner: Reasoner, sampling: Sampling, findings: Findings) -> None:
    with findings.attempt("every conversation is answered", f"temperature {sampling.temperature}"):
        _check_answers(reasoner, sampling, findings)


def _check_answers(reasoner: Reasoner, sampling: Sampling, findings: Findings) -> None:
    conversations = examples.conversations()
    before = copy.deepcopy(conversations)
    groups = reasoner.generate(conversations, sampling)
    findings.expect(_equal(conversations, before), "generate leaves the messages as they are")
    if not _well_formed(reasoner, conversations, groups, sampling, findings):
        return
    how = f"temperature {sampling.temperature}, seed {sampling.seed}"
    texts = _texts(groups)
    again = _texts(reasoner.generate(conversations, sampling))
    findings.expect(again == texts, "the same call writes the same text every time", how)
    backwards = _texts(reasoner.generate(conversations[::-1], sampling))[::-1]
    findings.expect(backwards == texts, "a completion does not depend on the order of the batch", how)
    alone = [_texts(reasoner.generate([conversation], sampling))[0] for conversation in conversations]
    findings.expect(alone == texts, "a completion does not depend on what else is in the batch", how)
    first = _texts(reasoner.generate(conversations, replace(sampling, num_generations=1)))
    findings.expect(
        [group[:1] for group in texts] == first, "a completion does not depend on how many are asked for", how
    )


def _well_formed(
    reasoner: Reasoner, conversations: Sequence[Messages], groups: Any, sampling: Sampling, findings: Findings
) -> bool:
    count = len(conversations)
    broken_before = len(findings.culprits)
    if not findings.expect(
        isinstance(groups, list) and len(groups) == count,
        "generate gives a list with one list per conversation",
        f"{shown(groups)} for {count}",
    ):
        return False
    for messages, group in zip(conversations, groups, strict=True):
        good = isinstance(group, list) and len(group) == sampling.num_generations
        if findings.expect(
            good, "every inner list holds num_generations completions", f"{shown(group)} for {sampling.num_generations}"
        ):
            for completion in group:
                _check_completion(completion, findings)
                _check_frame(reasoner, messages, completion, findings)
    return len(findings.culprits) == broken_before


def _check_frame(reasoner: Reasoner, messages: Messages, completion: Any, findings: Findings) -> None:
    promise = "frame(size) says beforehand which frame the answer will have"
    if getattr(completion, "frame", None) is None:
        return
    with findings.attempt(promise):
        image = image_of(messages)
        declared = reasoner.frame((image.shape[0], image.shape[1]))
        findings.expect(declared == completion.frame, promise, f"{declared} before, {completion.frame} after")


def _check_completion(completion: Any, findings: Findings) -> None:
    if not findings.expect(
        isinstance(completion, Completion), "generate gives medground.Completion", shown(completion)
    ):
        return
    findings.expect(isinstance(completion.text, str), "a completion's text is str", shown(completion.text))
    if completion.fault is None:
        findings.expect(
            isinstance(completion.frame, Frame), "every completion declares its frame", shown(completion.frame)
        )
    else:
        findings.expect(
            not completion.fault.of_model,
            "faults of the text are for the prompt interface to find",
            str(completion.fault),
        )
    findings.expect(
        completion.finish_reason in ("stop", "length"),
        'finish_reason is "stop" or "length"',
        shown(completion.finish_reason),
    )
    ids, logprobs = completion.token_ids, completion.logprobs
    if ids is not None:
        good = isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype == np.int32
        findings.expect(good, "token_ids are a [T] int32 array", shown(ids))
    if logprobs is not None:
        good = isinstance(logprobs, np.ndarray) and logprobs.dtype == np.float32 and ids is not None
        good = good and logprobs.shape == np.shape(ids) and bool((logprobs <= 0).all())
        findings.expect(
            good, "logprobs are a [T] float32 array, one for each of token_ids, none above 0", shown(logprobs)
        )


def _texts(groups: Sequence[Sequence[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in group] for group in groups]


def _equal(first: Sequence[Messages], second: Sequence[Messages]) -> bool:
    return all(
        np.array_equal(image_of(a), image_of(b)) and text_of(a) == text_of(b)
        for a, b in zip(first, second, strict=True)
    )
