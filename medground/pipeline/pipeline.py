"""How the parts work together: the inference graph, and the training graph made of the same parts.

    inference   query -> completion -> grounding -> mask
    training    sample -> group of completions -> groundings -> masks (only if a term needs them) -> scores

Every stage is keyed by what feeds it, so a run that changes only the segmenter takes its completions from the
`StageCache` and never builds the reasoner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from medground import registry
from medground.errors import RunError, SegmenterError, SegmenterMemoryError
from medground.pipeline.cache import StageCache, query_key
from medground.protocols import BatchSegmenter, PromptInterface, Reasoner, Segmenter
from medground.recipe import Recipe, check, require_checkpoints, resolve, untrained_kinds
from medground.segmenters.batching import image_key
from medground.types import (
    Completion,
    Fault,
    Grounding,
    Image,
    Mask,
    Query,
    Rollout,
    Sample,
    Sampling,
    SpatialPrompt,
)

if TYPE_CHECKING:
    from medground.rewards.rubric import Rubric, Score

Part = Literal["both", "box", "points"]
UNFINISHED = (Fault.NO_ANSWER, Fault.BAD_JSON)
"""What a parser says of a text that ends before its answer does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroundingResult:
    """What the inference graph says about one query."""

    query: Query
    completion: Completion
    grounding: Grounding
    mask: Mask | None
    """None where nothing could be prompted or the segmenter failed."""
    fault: Fault | None
    """Why there is no mask, or what was wrong with the answer; None when all went well."""
    cause: str = ""
    """One sentence about a fault that is not the model's."""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values; coordinates in pixels of the original image, the mask by its figures."""
        prompt, frame = self.grounding.prompt, self.completion.frame
        return {
            "id": self.query.id,
            "question": self.query.question,
            "text": self.completion.text,
            "finish_reason": self.completion.finish_reason,
            "think": self.grounding.think,
            "box": list(prompt.box) if prompt and prompt.box else None,
            "points": [list(point) for point in prompt.points] if prompt else [],
            "frame": frame and {"kind": frame.kind, "size": list(frame.size), "order": frame.order},
            "size": list(self.query.size),
            "mask": self.mask and {"area": int(self.mask.data.sum()), "score": float(self.mask.score)},
            "fault": self.fault,
            "cause": self.cause,
            "usage": dict(self.completion.usage),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """G rollouts of one sample with their scores."""

    sample: Sample
    rollouts: list[Rollout]
    scores: "list[Score]"


@dataclass(frozen=True, slots=True)
class Segmented:
    """One outcome of the mask stage."""

    mask: Mask | None
    fault: Fault | None = None
    cause: str = ""


class Pipeline:
    """The inference graph of a recipe. Components are built when first needed.

    Args:
        recipe: names the components.
        store: where stages are kept; without one nothing is.
        segments: whether masks are wanted of the answers, so that a segmenter's missing weights are told before any is written.
    """

    def __init__(self, recipe: Recipe, store: StageCache | None = None, *, segments: bool = True) -> None:
        self.recipe = recipe
        self.store = store
        self.segments = segments

    @cached_property
    def reasoner(self) -> Reasoner:
        """The recipe's reasoner."""
        return self._build("reasoner")  # type: ignore[no-any-return]

    @cached_property
    def prompt_interface(self) -> PromptInterface:
        """The recipe's prompt interface."""
        return self._build("prompt_interface")  # type: ignore[no-any-return]

    @cached_property
    def segmenter(self) -> Segmenter:
        """The recipe's segmenter."""
        return self._build("segmenter")  # type: ignore[no-any-return]

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn; greedy and single unless the recipe says otherwise."""
        return Sampling(**self.recipe.data["sampling"])

    @cached_property
    def untrained(self) -> list[str]:
        """Prompt kinds the segmenter is given and was not trained for, by the recipe's leave; results say so."""
        return sorted(untrained_kinds(self.recipe))

    @property
    def part(self) -> Part:
        """Which part of the answer prompts the segmenter."""
        part: Part = self.recipe.data.get("prompt", "both")
        return part

    def __call__(self, query: Query) -> GroundingResult:
        """Ground one query."""
        return self.batch([query])[0]

    def batch(self, queries: Sequence[Query]) -> list[GroundingResult]:
        """Ground several queries together, in order. Queries about one image encode it once."""
        completions = [group[0] for group in self.completions(queries, replace(self.sampling, num_generations=1))]
        groundings = [self.ground(*pair) for pair in zip(queries, completions, strict=True)]
        masks = self.masks([(query.image, grounding) for query, grounding in zip(queries, groundings, strict=True)])
        return [
            GroundingResult(
                query=query,
                completion=completion,
                grounding=grounding,
                mask=segmented.mask,
                fault=completion.fault or grounding.fault or segmented.fault,
                cause=completion.cause or segmented.cause,
            )
            for query, completion, grounding, segmented in zip(queries, completions, groundings, masks, strict=True)
        ]

    def completions(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Completion]]:
        """The completion stage: G per query, from the store where the same reasoner was asked the same before."""
        feeds = self.recipe.digest("reasoner", "prompt_interface")
        store = self.store
        keys = [query_key(feeds, query, sampling) for query in queries] if store else []
        found: list[list[Completion] | None] = (
            [store.completions(key) for key in keys] if store else [None] * len(queries)
        )
        missing = [index for index, group in enumerate(found) if group is None]
        if missing:
            if "reasoner" not in vars(self):  # not built yet
                require_checkpoints(self.recipe, "reasoner", *["segmenter"] * self.segments)
            batch = [self.prompt_interface.render(queries[index]) for index in missing]
            answers = self.reasoner.generate(batch, sampling)
            _count("reasoner", [len(group) for group in answers], [sampling.num_generations] * len(batch))
            for index, group in zip(missing, answers, strict=True):
                found[index] = group
                if store and all(completion.fault is None for completion in group):
                    store.put_completions(keys[index], group)
        return [group for group in found if group is not None]

    def ground(self, query: Query, completion: Completion) -> Grounding:
        """The grounding stage: read one completion. Where there is no text at all, its fault is the grounding's; where the
        text ended at the length limit and lacks a whole answer, that is the fault."""
        if completion.fault is not None:
            return Grounding(prompt=None, fault=completion.fault)
        grounding = self.prompt_interface.parse(completion, query.size)
        if completion.finish_reason == "length" and grounding.fault in UNFINISHED:
            return replace(grounding, fault=Fault.CUT_OFF)
        return grounding

    def masks(self, answers: Sequence[tuple[Image, Grounding]], part: Part | None = None) -> list[Segmented]:
        """The mask stage: each image is handed to the segmenter once, with all prompts about it.

        Args:
            answers: images and what was said about them.
            part: which part of each answer prompts the segmenter; None takes the recipe's word.
        """
        feeds = self.recipe.digest("segmenter")
        out = [Segmented(None)] * len(answers)
        waiting: dict[str, list[tuple[int, SpatialPrompt]]] = {}
        images: dict[str, Image] = {}
        for index, (image, grounding) in enumerate(answers):
            prompt = grounding.prompt and grounding.prompt.only(part or self.part)
            if prompt is None:
                continue
            key = image_key(image)
            stored = self.store.mask(feeds, key, prompt) if self.store else None
            if stored is not None:
                out[index] = Segmented(stored)
            else:
                images[key] = image
                waiting.setdefault(key, []).append((index, prompt))
        prompts = {key: [prompt for _, prompt in pairs] for key, pairs in waiting.items()}
        for key, results in self._segment(images, prompts).items():
            for (index, prompt), segmented in zip(waiting[key], results, strict=True):
                out[index] = segmented
                if self.store and segmented.mask is not None:
                    self.store.put_mask(feeds, key, prompt, segmented.mask)
        return out

    def _segment(
        self, images: Mapping[str, Image], prompts: Mapping[str, list[SpatialPrompt]]
    ) -> dict[str, list[Segmented]]:
        keys = list(images)
        if len(keys) > 1 and isinstance(self.segmenter, BatchSegmenter):
            try:
                masks = self.segmenter.segment_batch([images[key] for key in keys], [prompts[key] for key in keys])
                _count("segmenter", [len(group) for group in masks], [len(prompts[key]) for key in keys])
                return {key: [Segmented(mask) for mask in group] for key, group in zip(keys, masks, strict=True)}
            except SegmenterError:
                pass  # One image may be to blame: ask again one by one, so that only its samples carry the fault.
        return {key: self._segment_one(images[key], prompts[key]) for key in keys}

    def _segment_one(self, image: Image, prompts: list[SpatialPrompt]) -> list[Segmented]:
        try:
            masks = self.segmenter.segment(image, prompts)
        except (MemoryError, SegmenterMemoryError) as error:
            return [Segmented(None, Fault.OUT_OF_MEMORY, f"out of memory: {error}")] * len(prompts)
        except Exception as error:  # noqa: BLE001  a stranger's segmenter may raise anything; counted, with its cause
            cause = f"{type(self.segmenter).__name__} failed: {type(error).__name__}: {error}"
            return [Segmented(None, Fault.SEGMENTER, cause)] * len(prompts)
        _count("segmenter", [len(masks)], [len(prompts)])
        return [Segmented(mask) for mask in masks]

    def _build(self, kind: str) -> Any:
        name, arguments = self.recipe.component(kind)
        return registry.build(kind, name, **arguments)


class RolloutPipeline:
    """The training graph of a recipe: from samples to scored groups."""

    def __init__(self, recipe: Recipe, rubric: "Rubric", store: StageCache | None = None) -> None:
        self.grounding = Pipeline(recipe, store, segments=rubric.needs_mask)
        self.rubric = rubric

    def __call__(self, samples: Sequence[Sample], sampling: Sampling) -> list[Group]:
        """Sample G completions per sample, and score them."""
        return self.score(samples, self.grounding.completions([sample.query for sample in samples], sampling))

    def score(self, samples: Sequence[Sample], completions: Sequence[Sequence[Completion]]) -> list[Group]:
        """Score given completions: read them, segment where a term needs it, apply the rubric once to all."""
        flat = [
            Rollout(sample=sample, completion=completion, grounding=self.grounding.ground(sample.query, completion))
            for sample, group in zip(samples, completions, strict=True)
            for completion in group
        ]
        if self.rubric.needs_mask:
            masks = self.grounding.masks([(rollout.sample.query.image, rollout.grounding) for rollout in flat])
            flat = [
                replace(rollout, mask=segmented.mask, fault=segmented.fault, cause=segmented.cause)
                for rollout, segmented in zip(flat, masks, strict=True)
            ]
        flat = [
            replace(rollout, fault=rollout.completion.fault, cause=rollout.completion.cause)
            if rollout.completion.fault
            else rollout
            for rollout in flat
        ]
        scores = iter(self.rubric(flat))
        rollouts = iter(flat)
        return [
            Group(sample=sample, rollouts=[next(rollouts) for _ in group], scores=[next(scores) for _ in group])
            for sample, group in zip(samples, completions, strict=True)
        ]


def load(recipe: Any, *overrides: str, store: StageCache | None = None) -> Pipeline:
    """The inference graph of a recipe.

    Args:
        recipe: a shipped name such as ``"infer/toy"``, a path, a run folder, or a mapping.
        overrides: ``"a.b=c"`` strings, as on the command line.
        store: where stages are kept; give one store to several graphs and they share what they have in common.
            Without one, nothing is kept.

    Raises:
        RecipeError: if the recipe cannot be used as written.
        PluginError: if it names a component that is missing, broken or ambiguous.
    """
    resolved = resolve(recipe, *overrides)
    check(resolved)
    return Pipeline(resolved, store)


def describe(recipe: Recipe) -> str:
    """The graph of a recipe as text: one line per stage with the component that does it, and what feeds it."""
    data = recipe.data
    stages: list[tuple[str, str, str]] = []

    def named(kind: str) -> str:
        name, arguments = recipe.component(kind)
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        return f"{name}({shown})"

    if "prompt_interface" in data:
        stages.append(("render", named("prompt_interface"), "image, question -> messages"))
    if "reasoner" in data:
        generations = data.get("sampling", {}).get("num_generations", 1)
        stages.append(("completions", named("reasoner"), f"messages -> {generations} x text"))
    if "prompt_interface" in data:
        stages.append(("groundings", named("prompt_interface"), "text -> box, points in original pixels"))
    if "segmenter" in data:
        stages.append(("masks", named("segmenter"), f"image, {data.get('prompt', 'both')} -> mask"))
    if recipe.terms:
        terms = ", ".join(f"{weight:g} {label}" for label, (_, weight, _) in recipe.terms.items())
        stages.append(("scores", terms, "rollouts -> raw values, weighted sum"))
    width = max((len(stage) for stage, _, _ in stages), default=0)
    return "\n".join(f"{stage:<{width}}  {who}\n{'':<{width}}  {what}" for stage, who, what in stages)


def _count(who: str, given: Sequence[int], wanted: Sequence[int]) -> None:
    if list(given) != list(wanted):
        raise RunError(
            f"the {who} gave {list(given)} answers where {list(wanted)} were asked for",
            hint=f"run medground.testing.check_{who} on it",
        )
