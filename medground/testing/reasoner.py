"""Does a reasoner keep the promises of `medground.protocols.Reasoner`?"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medground.frames import Frame
from medground.hookspecs import Factory
from medground.testing import examples
from medground.testing.findings import Findings, make
from medground.types import Completion, Messages, Sampling, image_of, text_of


def check_reasoner(factory: Factory, /, **arguments: Any) -> None:
    """Check a reasoner made by ``factory(**arguments)`` on three conversations, greedy and sampled.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    reasoner = make(factory, arguments, findings)
    with findings.attempt("generate with nothing to answer"):
        none = reasoner.generate([], Sampling())
        findings.expect(none == [], f"no conversations must give [], not {none!r}")
    greedy = Sampling(num_generations=1, temperature=0.0, max_completion_length=64, seed=7)
    for sampling in (greedy, replace(greedy, num_generations=3, temperature=1.0)):
        with findings.attempt(f"generate with temperature {sampling.temperature}"):
            _check_sampling(reasoner, sampling, findings)
    findings.conclude()


def _check_sampling(reasoner: Any, sampling: Sampling, findings: Findings) -> None:
    conversations = examples.conversations()
    before = copy.deepcopy(conversations)
    groups = reasoner.generate(conversations, sampling)
    findings.expect(_equal(conversations, before), "generate changes the messages it is given")
    if not _well_formed(groups, len(conversations), sampling, findings):
        return
    how = f"temperature {sampling.temperature}, seed {sampling.seed}"
    said = _texts(groups)
    again = _texts(reasoner.generate(conversations, sampling))
    findings.expect(again == said, f"the same call writes other text the second time ({how})")
    backwards = _texts(reasoner.generate(conversations[::-1], sampling))[::-1]
    findings.expect(backwards == said, f"a completion depends on the order of the batch ({how})")
    alone = [_texts(reasoner.generate([conversation], sampling))[0] for conversation in conversations]
    findings.expect(alone == said, f"a completion depends on what else is in the batch ({how})")
    first = _texts(reasoner.generate(conversations, replace(sampling, num_generations=1)))
    findings.expect(
        [group[:1] for group in said] == first, f"the first completion depends on how many are asked for ({how})"
    )


def _well_formed(groups: Any, asked: int, sampling: Sampling, findings: Findings) -> bool:
    found = len(findings.broken)
    if not findings.expect(
        isinstance(groups, list) and len(groups) == asked, f"{asked} conversations must give as many lists, in a list"
    ):
        return False
    for group in groups:
        good = isinstance(group, list) and len(group) == sampling.num_generations
        shown = len(group) if hasattr(group, "__len__") else repr(group)
        if findings.expect(good, f"every inner list holds {sampling.num_generations} completions, not {shown}"):
            for completion in group:
                _check_completion(completion, findings)
    return len(findings.broken) == found


def _check_completion(completion: Any, findings: Findings) -> None:
    if not findings.expect(
        isinstance(completion, Completion), f"generate gives medground.Completion, not {completion!r}"
    ):
        return
    findings.expect(isinstance(completion.text, str), f"a completion's text is str, not {completion.text!r}")
    if completion.fault is None:
        findings.expect(
            isinstance(completion.frame, Frame), f"every completion declares its frame, not {completion.frame!r}"
        )
    else:
        findings.expect(not completion.fault.of_model, f"{completion.fault} is for the prompt interface to find")
    findings.expect(
        completion.finish_reason in ("stop", "length"),
        f'finish_reason is "stop" or "length", not {completion.finish_reason!r}',
    )
    ids, logprobs = completion.token_ids, completion.logprobs
    if ids is not None:
        good = isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype == np.int32
        findings.expect(good, f"token_ids are a [T] int32 array, not {type(ids).__name__}")
    if logprobs is not None:
        good = isinstance(logprobs, np.ndarray) and logprobs.dtype == np.float32 and ids is not None
        good = good and logprobs.shape == np.shape(ids) and bool((logprobs <= 0).all())
        findings.expect(good, "logprobs are a [T] float32 array, one for each of token_ids, none above 0")


def _texts(groups: Sequence[Sequence[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in group] for group in groups]


def _equal(first: Sequence[Messages], second: Sequence[Messages]) -> bool:
    return all(
        np.array_equal(image_of(a), image_of(b)) and text_of(a) == text_of(b)
        for a, b in zip(first, second, strict=True)
    )
