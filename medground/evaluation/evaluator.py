"""One condition over a batch of samples: completions or given regions, groundings, masks, metrics."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from medground.data.dataset import Dataset
from medground.errors import InputError, RecipeError
from medground.evaluation.conditions import Condition, EvalContext, perfect_mask
from medground.evaluation.metrics import MaskPrompt, measure
from medground.evaluation.predictions import Predictions
from medground.evaluation.results_file import AnswerRecord, answer_record
from medground.pipeline.completions import SplittingInterface
from medground.pipeline.masks import Segmented
from medground.pipeline.pipeline import Pipeline
from medground.types import (
    ChosenKind,
    Completion,
    Fault,
    Grounding,
    PromptSelection,
    Query,
    Rollout,
    Sample,
    Sampling,
    Target,
    union,
    unread_kinds,
)

logger = logging.getLogger(__name__)


class Start(NamedTuple):
    """A written answer that a condition starts from."""

    answer: AnswerRecord
    think: str
    """The reasoning to go on from, in place of its own."""


class Unreadable(NamedTuple):
    """A sample whose image or mask cannot be read."""

    sample: Sample
    """What is known of it: its id and labels."""
    cause: str


def read_sample(samples: Sequence[Sample], index: int, lost: dict[int, Unreadable]) -> Sample | Unreadable:
    """Return a sample; where its image or mask cannot be read, one without them, and why, which is put into `lost`."""
    if index in lost or not isinstance(samples, Dataset):
        return lost.get(index) or samples[index]
    try:
        return samples[index]
    except InputError as error:
        entry = samples.entries[index]
        logger.warning("sample %r cannot be read: %s", entry.id, error)
        query = Query(image=np.zeros((1, 1, 3), np.uint8), question="", id=entry.id)
        lost[index] = Unreadable(Sample(query=query, target=Target(regions=()), labels=entry.labels), str(error))
        return lost[index]


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Answers samples under conditions, and measures the answers."""

    pipeline: Pipeline
    samplings: Sequence[Sampling]
    released: bool
    """Whether the released evaluation's numbers are measured too."""
    predictions: Predictions | None
    positions: Mapping[str, int]
    """Sample id -> its index."""

    @property
    def segments(self) -> bool:
        """Whether there is a segmenter."""
        return "segmenter" in self.pipeline.components

    def obstacle(self, condition: Condition) -> str | None:
        """Return why a condition cannot be evaluated with these components, or None."""
        pipeline = self.pipeline
        if condition.regions is not None:
            return self._untrained(condition)
        if "prompt_interface" not in pipeline.components:
            return "the recipe names no prompt_interface"
        if self.predictions is not None:
            asks = condition.query is not None or condition.think is not None
            return "the answers are saved ones: no reasoner is asked again" if asks else None
        if "reasoner" not in pipeline.components:
            return "the recipe names no reasoner"
        if condition.restore is not None and pipeline.keeps_masks:
            return "the mask of a candidate of another image is not brought back to the sample's own"
        if condition.think and isinstance(pipeline.prompt_interface, SplittingInterface):
            return "the prompt interface asks several times per question, each with a reasoning of its own"
        if condition.think and not hasattr(pipeline.reasoner, "go_on"):
            return f"the reasoner {pipeline.name('reasoner')} cannot go on from a text it is given"
        return None

    def _untrained(self, condition: Condition) -> str | None:
        if not self.segments:
            return "the recipe names no segmenter"
        untrained = sorted(set(condition.prompt).difference(self.pipeline.accepts))
        if untrained and (unread_kinds(untrained, self.pipeline.accepts) or not self.pipeline.allow_untrained):
            return f"the segmenter {self.pipeline.name('segmenter')} was not trained for {' and '.join(untrained)}"
        return None

    def prompts(self) -> list[MaskPrompt]:
        """Return the masks an answer is given: one for all the recipe lets through, and one each for box and points."""
        pipeline = self.pipeline
        if pipeline.keeps_masks:
            return ["joint"]
        if not self.segments:
            return []
        both = {"box", "points"}
        if both != set(pipeline.selection.kinds) or not both <= pipeline.prompt_interface.provides:
            return ["joint"]
        accepted = both if pipeline.allow_untrained else pipeline.accepts
        kinds: list[MaskPrompt] = ["box", "points"]
        return [kind for kind in kinds if kind in accepted] + ["joint"]

    def answers(
        self,
        condition: Condition,
        samples: Sequence[Sample],
        context: EvalContext,
        starts: Sequence[Sequence[Start]],
    ) -> tuple[list[list[AnswerRecord]], list[str]]:
        """Return the answers of every sample and the questions that were asked.

        Args:
            condition: what is changed.
            samples: a batch.
            context: the other samples.
            starts: per sample, the written answers the condition starts from; empty lists where it needs none.
        """
        if condition.regions is not None:
            questions = [sample.query.question for sample in samples]
            selection = self._selection(condition)
            regions = [
                tuple(
                    region
                    for region in condition.regions(sample, context)
                    if any(selection.prompts([region], question))
                )
                for sample, question in zip(samples, questions, strict=True)
            ]
            read = [
                [(None, Grounding(regions=given))] if given or not sample.target.regions else []
                for sample, given in zip(samples, regions, strict=True)
            ]
            return self._measured(condition, samples, questions, read), questions
        queries = [sample.query if condition.query is None else condition.query(sample, context) for sample in samples]
        queries = [proposed.query for proposed in self.pipeline.proposed(queries)]
        if condition.query is None:
            samples = [replace(sample, query=query) for sample, query in zip(samples, queries, strict=True)]
        groups = self._completions(condition, queries, starts)
        groundings = [
            [(completion, self._grounding(condition, query, completion)) for completion in group]
            for query, group in zip(queries, groups, strict=True)
        ]
        questions = [query.question for query in queries]
        return self._measured(condition, samples, questions, groundings), questions

    def unreadable(self, condition: Condition, sample: Sample, cause: str) -> list[AnswerRecord]:
        """Return the answer of a sample that cannot be read: a fault that is not the model's."""
        completion = Completion(text="", frame=None, fault=Fault.UNUSABLE_INPUT, cause=cause)
        return [self._answer(condition, sample, completion, Grounding(fault=Fault.UNUSABLE_INPUT), {}, self.prompts())]

    def _completions(
        self, condition: Condition, queries: Sequence[Query], starts: Sequence[Sequence[Start]]
    ) -> list[list[Completion]]:
        if condition.perfect_segmenter:
            return [[start.answer.completion for start in group] for group in starts]
        if condition.think:
            return [
                [self._continued(query, start) for start in group] for query, group in zip(queries, starts, strict=True)
            ]
        if self.predictions is not None:
            return [self.predictions.of(query.id, query.size) for query in queries]
        rounds = [self.pipeline.completions(queries, sampling) for sampling in self.samplings]
        return [[completion for group in groups for completion in group] for groups in zip(*rounds, strict=True)]

    def _continued(self, query: Query, start: Start) -> Completion:
        """Return an answer written again after another reasoning; as it was where it has no reasoning to replace."""
        reasoner = self.pipeline.reasoner
        if not hasattr(reasoner, "go_on"):
            raise RecipeError("the reasoner cannot go on from a text it is given")
        text = beginning(start.answer.text or "", start.answer.think, start.think)
        if text is None:
            return start.answer.completion
        sampling = replace(self.samplings[0], num_generations=1)
        completion: Completion
        [[completion]] = reasoner.go_on([self.pipeline.render(query)], [text], sampling)
        return completion

    def _grounding(self, condition: Condition, query: Query, completion: Completion) -> Grounding:
        grounding = self.pipeline.ground(query, completion)
        if condition.restore is None:
            return grounding
        return replace(grounding, regions=tuple(condition.restore(region, query.size) for region in grounding.regions))

    def _measured(
        self,
        condition: Condition,
        samples: Sequence[Sample],
        questions: Sequence[str],
        groups: Sequence[Sequence[tuple[Completion | None, Grounding]]],
    ) -> list[list[AnswerRecord]]:
        flat = [(sample, *pair) for sample, group in zip(samples, groups, strict=True) for pair in group]
        texts = [question for question, group in zip(questions, groups, strict=True) for _ in group]
        prompts = self.prompts()
        if condition.kind != "answer":
            segments = self.segments or (self.pipeline.keeps_masks and condition.regions is None)
            prompts = ["joint"] if segments or condition.perfect_segmenter else []
        jobs = [(sample, text, grounding) for (sample, _, grounding), text in zip(flat, texts, strict=True)]
        masks = self._masks(condition, jobs, prompts)
        answers = iter(
            [self._answer(condition, *entry, masks, prompts) for entry, masks in zip(flat, masks, strict=True)]
        )
        return [[next(answers) for _ in group] for group in groups]

    def _masks(
        self, condition: Condition, answers: Sequence[tuple[Sample, str, Grounding]], prompts: Sequence[MaskPrompt]
    ) -> list[dict[MaskPrompt, Segmented]]:
        """Return what was segmented for every answer, by what prompted it; nothing for an answer that failed."""
        joint = self._selection(condition)
        if condition.perfect_segmenter:
            return [{"joint": _perfect(sample, text, grounding, joint)} for sample, text, grounding in answers]
        if self.pipeline.keeps_masks and condition.regions is None:
            groundings = [grounding for _, _, grounding in answers]
            drawn = self.pipeline.drawn([sample.query for sample, _, _ in answers], groundings)
            usable = [grounding.regions and grounding.fault is None for grounding in groundings]
            return [{"joint": one} if right else {} for one, right in zip(drawn, usable, strict=True)]
        results: list[dict[MaskPrompt, Segmented]] = [{} for _ in answers]
        order: list[tuple[int, MaskPrompt]] = []
        jobs = []
        for index, (sample, text, grounding) in enumerate(answers):
            if not grounding.regions or grounding.fault is not None:
                continue
            for prompt in prompts:
                order.append((index, prompt))
                selection = joint if prompt == "joint" else PromptSelection((ChosenKind(prompt),))
                jobs.append((sample.query.image, selection.prompts(grounding.regions, text)))
        if self.segments:
            for (index, prompt), segmented in zip(order, self.pipeline.masks(jobs), strict=True):
                results[index][prompt] = segmented
        return results

    def _selection(self, condition: Condition) -> PromptSelection:
        selection = self.pipeline.selection
        return selection if condition.regions is None else replace(selection, kinds=condition.prompt)

    def _answer(
        self,
        condition: Condition,
        sample: Sample,
        completion: Completion | None,
        grounding: Grounding,
        segmented: Mapping[MaskPrompt, Segmented],
        wanted: Sequence[MaskPrompt],
    ) -> AnswerRecord:
        masks = {prompt: result.mask for prompt, result in segmented.items() if result.mask is not None}
        results = [result.of(grounding) if prompt == "joint" else result for prompt, result in segmented.items()]
        failed = next((result for result in results if result.fault is not None), Segmented())
        rollout = Rollout(
            sample=sample,
            completion=completion or Completion(text="", frame=None),
            grounding=grounding.with_masks(segmented["joint"].masks) if "joint" in segmented else grounding,
            fault=failed.fault,
            cause=failed.cause,
        )
        stated = {
            "text": ChosenKind.text in condition.prompt,
            "box": any(region.box for region in grounding.regions),
            "points": any(region.points for region in grounding.regions),
        }
        given = {kind for kind, there in stated.items() if there and condition.regions is not None}
        measurement = measure(
            rollout,
            masks=masks,
            provides=given or self.pipeline.prompt_interface.provides,
            prompts=wanted,
            compat=self.released and completion is not None,
        )
        return answer_record(completion, rollout.grounding, masks, measurement, failed.cause)


def _perfect(sample: Sample, text: str, grounding: Grounding, selection: PromptSelection) -> Segmented:
    truths = [region.mask.data for region in sample.target.regions if region.mask is not None]
    if sample.target.mask is None or grounding.fault is not None:
        return Segmented()
    prompts = selection.prompts(grounding.regions, text)
    return Segmented(
        tuple(
            None if prompt is None else union([perfect_mask(prompt, truth) for truth in truths]) for prompt in prompts
        )
    )


def beginning(text: str, think: str | None, instead: str) -> str | None:
    """Return a completion up to the tag that closes its reasoning, with another reasoning; None without one to replace.

    >>> beginning("<think>It is left.</think><answer>{}</answer>", "It is left.", "")
    '<think></think>'
    """
    if not think or think not in text:
        return None
    before, _, after = text.partition(think)
    closing = re.match(r"\s*<[^<>]*>", after)
    return None if closing is None else before + instead + closing[0].lstrip()
