"""One arm over a batch of samples: asked or placed, read, segmented, measured."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medground import registry
from medground.errors import RecipeError
from medground.evaluation.conditions import Arm, Around, perfect_mask
from medground.evaluation.metrics import MaskPrompt, measure
from medground.evaluation.predictions import Predictions
from medground.evaluation.results_file import Answer, completion_of
from medground.pipeline.pipeline import Pipeline, Segmented
from medground.protocols import ContinuingReasoner
from medground.types import Completion, Grounding, Query, Rollout, Sample, Sampling


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What answers are made with."""

    graph: Pipeline
    samplings: Sequence[Sampling]
    released: bool
    predictions: Predictions | None
    places: Mapping[str, int]

    @property
    def segments(self) -> bool:
        """Whether there is a segmenter."""
        return "segmenter" in self.graph.recipe.data

    @property
    def accepts(self) -> Collection[str]:
        """The prompt kinds the segmenter was trained for, known without building it where its factory says them."""
        factory = registry.factory("segmenter", self.graph.recipe.data["segmenter"]["name"])
        found = getattr(factory, "accepts", None)
        return found if isinstance(found, frozenset) else self.graph.segmenter.accepts

    def impossible(self, arm: Arm) -> str | None:
        """Why an arm cannot be done with these parts, or None."""
        data = self.graph.recipe.data
        if arm.place is not None:
            return self._unprompted(arm)
        if "prompt_interface" not in data:
            return "the recipe names no prompt_interface"
        if self.predictions is not None:
            again = arm.show is not None or arm.think is not None
            return "the answers are saved ones, and nobody can be asked again" if again else None
        if "reasoner" not in data:
            return "the recipe names no reasoner"
        if arm.think and not isinstance(self.graph.reasoner, ContinuingReasoner):
            return f"the reasoner {data['reasoner']['name']} cannot go on from a text it is given"
        return None

    def _unprompted(self, arm: Arm) -> str | None:
        data = self.graph.recipe.data
        if not self.segments:
            return "the recipe names no segmenter"
        kinds = {"oracle_points": {"points"}, "oracle_both": {"box", "points"}}.get(arm.name, {"box"})
        untrained = sorted(kinds.difference(self.accepts))
        if untrained and not data["allow_untrained"]:
            return f"the segmenter {data['segmenter']['name']} was not trained for {' and '.join(untrained)}"
        return None

    def prompts(self) -> list[MaskPrompt]:
        """The masks an answer is given: one for all the recipe lets through, and one each for box and points if both."""
        if not self.segments:
            return []
        graph = self.graph
        if graph.part != "both" or not {"box", "points"} <= graph.prompt_interface.provides:
            return ["joint"]
        accepted = {"box", "points"} if graph.recipe.data["allow_untrained"] else self.accepts
        parts: list[MaskPrompt] = ["box", "points"]
        return [part for part in parts if part in accepted] + ["joint"]

    def answers(
        self, arm: Arm, samples: Sequence[Sample], around: Around, given: Sequence[Sequence[Mapping[str, Any]]]
    ) -> tuple[list[list[Answer]], list[str]]:
        """The answers of every sample and the questions that were asked.

        Args:
            arm: what is done on the way.
            samples: a batch.
            around: the other samples.
            given: per sample, the written answers the arm starts from; empty lists where it starts from nothing.
        """
        if arm.place is not None:
            prompts = [arm.place(sample, around) for sample in samples]
            read = [[(None, Grounding(prompt=prompt))] if prompt else [] for prompt in prompts]
            return self._finish(arm, samples, read), [sample.query.question for sample in samples]
        queries = [sample.query if arm.show is None else arm.show(sample, around) for sample in samples]
        groups = self._completions(arm, queries, given)
        said = [
            [(completion, self._read(arm, query, completion)) for completion in group]
            for query, group in zip(queries, groups, strict=True)
        ]
        return self._finish(arm, samples, said), [query.question for query in queries]

    def _completions(
        self, arm: Arm, queries: Sequence[Query], given: Sequence[Sequence[Mapping[str, Any]]]
    ) -> list[list[Completion]]:
        if arm.perfect:
            return [[completion_of(answer) for answer in answers] for answers in given]
        if arm.think:
            return self._gone_on(queries, given)
        if self.predictions is not None:
            return [self.predictions.of(self.places[query.id], query.id, query.size) for query in queries]
        rounds = [self.graph.completions(queries, sampling) for sampling in self.samplings]
        return [[completion for group in groups for completion in group] for groups in zip(*rounds, strict=True)]

    def _gone_on(
        self, queries: Sequence[Query], given: Sequence[Sequence[Mapping[str, Any]]]
    ) -> list[list[Completion]]:
        """The answers again, each from another reasoning: ``given`` holds (answer, the reasoning to go on from)."""
        reasoner = self.graph.reasoner
        if not isinstance(reasoner, ContinuingReasoner):
            raise RecipeError("the reasoner cannot go on from a text it is given")
        found: list[list[Completion]] = []
        for query, answers in zip(queries, given, strict=True):
            messages, group = self.graph.prompt_interface.render(query), []
            for answer in answers:
                start = beginning(answer["text"], answer["think"], answer["instead"])
                if start is None:
                    group.append(completion_of(answer))
                else:
                    sampling = replace(self.samplings[0], num_generations=1)
                    group += reasoner.go_on([messages], [start], sampling)[0]
            found.append(group)
        return found

    def _read(self, arm: Arm, query: Query, completion: Completion) -> Grounding:
        grounding = self.graph.ground(query, completion)
        if arm.back is None or grounding.prompt is None:
            return grounding
        return replace(grounding, prompt=arm.back(grounding.prompt, query.size))

    def _finish(
        self, arm: Arm, samples: Sequence[Sample], read: Sequence[Sequence[tuple[Completion | None, Grounding]]]
    ) -> list[list[Answer]]:
        """Masks and metrics."""
        flat = [(sample, *pair) for sample, group in zip(samples, read, strict=True) for pair in group]
        wanted = self.prompts()
        if arm.kind != "answer":
            wanted = ["joint"] if self.segments or arm.perfect else []
        masks = iter(self._masks(arm, [(sample, grounding) for sample, _, grounding in flat], wanted))
        answers = iter([self._measured(arm, *each, next(masks), wanted) for each in flat])
        return [[next(answers) for _ in group] for group in read]

    def _masks(
        self, arm: Arm, asked: Sequence[tuple[Sample, Grounding]], wanted: Sequence[MaskPrompt]
    ) -> list[dict[MaskPrompt, Segmented]]:
        """What was segmented for every answer, by what prompted it; nothing for an answer that failed."""
        part = "both" if arm.place is not None else self.graph.part
        if arm.perfect:
            return [{"joint": _perfect(sample, grounding, part)} for sample, grounding in asked]
        found: list[dict[MaskPrompt, Segmented]] = [{} for _ in asked]
        order: list[tuple[int, MaskPrompt]] = []
        jobs = []
        for index, (sample, grounding) in enumerate(asked):
            if grounding.prompt is None or grounding.fault is not None:
                continue
            for prompt in wanted:
                order.append((index, prompt))
                chosen = grounding.prompt.only(part if prompt == "joint" else prompt)
                jobs.append((sample.query.image, Grounding(prompt=chosen)))
        if self.segments:
            for (index, prompt), segmented in zip(order, self.graph.masks(jobs, "both"), strict=True):
                found[index][prompt] = segmented
        return found

    def _measured(
        self,
        arm: Arm,
        sample: Sample,
        completion: Completion | None,
        grounding: Grounding,
        segmented: Mapping[MaskPrompt, Segmented],
        wanted: Sequence[MaskPrompt],
    ) -> Answer:
        masks = {prompt: each.mask for prompt, each in segmented.items() if each.mask is not None}
        failed = next((each for each in segmented.values() if each.fault is not None), Segmented(None))
        rollout = Rollout(
            sample=sample,
            completion=completion or Completion(text="", frame=None),
            grounding=grounding,
            mask=masks.get("joint"),
            fault=failed.fault,
            cause=failed.cause,
        )
        placed = grounding.prompt.kinds if arm.place is not None and grounding.prompt else None
        measured = measure(
            rollout,
            masks=masks,
            provides=placed or self.graph.prompt_interface.provides,
            prompts=wanted,
            compat=self.released and completion is not None,
        )
        return Answer(completion=completion, grounding=grounding, masks=masks, measured=measured, cause=failed.cause)


def _perfect(sample: Sample, grounding: Grounding, part: Any) -> Segmented:
    prompt = grounding.prompt and grounding.prompt.only(part)
    if prompt is None or sample.target.mask is None or grounding.fault is not None:
        return Segmented(None)
    return Segmented(perfect_mask(prompt, sample.target.mask))


def beginning(text: str, think: str | None, instead: str) -> str | None:
    """A completion up to the tag that closes its reasoning, with another reasoning; None where it has none to replace.

    >>> beginning("<think>It is left.</think><answer>{}</answer>", "It is left.", "")
    '<think></think>'
    """
    if not think or think not in text:
        return None
    before, _, after = text.partition(think)
    closing = re.match(r"\s*<[^<>]*>", after)
    return None if closing is None else before + instead + closing[0].lstrip()
