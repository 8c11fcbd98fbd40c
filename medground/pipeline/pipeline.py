"""From a question about an image to masks: three components, and a cache between them.

    query -> completion (reasoner) -> grounding (prompt interface) -> masks (segmenter)

Stages are keyed by what feeds them: a pipeline that differs only in its segmenter takes its completions from a `StageCache`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Self

from medground.errors import RecipeError, did_you_mean
from medground.images.query import ImageSource, as_query
from medground.pipeline.cache import StageCache, query_key
from medground.pipeline.completions import ask
from medground.pipeline.deferred import Deferred, declared_kinds, of_recipe
from medground.pipeline.masks import Answers, Segmented, segment
from medground.pipeline.result import GroundingResult
from medground.protocols import PromptInterface, Reasoner, Segmenter
from medground.recipe import Recipe, check, require_checkpoints, resolve
from medground.recipe.check import never_given, unread_concepts
from medground.recipe.recipe import Source
from medground.types import (
    ChosenKind,
    Completion,
    Fault,
    Grounding,
    PromptKind,
    PromptSelection,
    Query,
    Rollout,
    Sample,
    Sampling,
    SpatialPrompt,
    TextSource,
)

GREEDY = Sampling(temperature=0.0)
UNFINISHED = (Fault.NO_ANSWER, Fault.BAD_JSON)
"""What a parser says of a text that ends before its answer does."""


class Pipeline:
    """A reasoner, a prompt interface and a segmenter, called with an image and a question.

    >>> import numpy as np
    >>> import medground
    >>> pipeline = medground.Pipeline(
    ...     medground.build("reasoner", "toy"),
    ...     medground.build("prompt_interface", "bbox_points"),
    ...     medground.build("segmenter", "ellipse"),
    ... )
    >>> pipeline(np.zeros((40, 60, 3), np.uint8), "Which region is dark?")
    GroundingResult(1 region, mask of 476 px, no fault)

    Args:
        reasoner: writes completions; None where answers are given.
        prompt_interface: asks and reads.
        segmenter: draws the masks; None where nobody needs them.
        prompt: the kinds of prompt that are made of a region: one or more of ``box``, ``points``, ``text``, ``exemplars``.
        text_from: where a text comes from: the region's ``label``, or the ``question``.
        sampling: how completions are drawn; greedy and single by default.
        allow_untrained: lets the segmenter be given kinds of prompt that it was not trained for.
        cache: where completions and masks are kept; pipelines that share one share what they have in common. What a
            component given as an object wrote or drew is not kept: nothing says when another object would do the same.
        recipe: what the pipeline was made from, if it was a recipe.
        segments: whether masks are wanted: a segmenter's missing weights are then refused before a reasoner is built.

    Raises:
        RecipeError: if the segmenter was not trained for what it would be given, or `prompt` is another word.
    """

    def __init__(
        self,
        reasoner: Reasoner | Deferred[Reasoner] | None = None,
        prompt_interface: PromptInterface | Deferred[PromptInterface] | None = None,
        segmenter: Segmenter | Deferred[Segmenter] | None = None,
        *,
        prompt: str | Sequence[str] = ("box", "points"),
        text_from: str = "label",
        sampling: Sampling = GREEDY,
        allow_untrained: bool = False,
        cache: StageCache | None = None,
        recipe: Recipe | None = None,
        segments: bool = True,
    ) -> None:
        self.components: Mapping[str, Any] = {
            kind: component
            for kind, component in {
                "reasoner": reasoner,
                "prompt_interface": prompt_interface,
                "segmenter": segmenter,
            }.items()
            if component is not None
        }
        self.selection = _selection(prompt, text_from)
        self.sampling = sampling
        self.allow_untrained = allow_untrained
        self.cache = cache
        self.recipe = recipe
        self.segments = segments
        if isinstance(segmenter, Deferred | None) or not (kinds := self.untrained):
            return
        if error := unread_concepts(self.name("segmenter"), kinds):
            raise error
        if not allow_untrained:
            raise RecipeError(
                f"the segmenter {self.name('segmenter')} was not trained for {' and '.join(kinds)}",
                hint="pass prompt='box' or prompt='points', or allow_untrained=True",
            )

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, cache: StageCache | None = None, segments: bool = True) -> Self:
        """Return the pipeline of a recipe; its ``objects`` take the places of the components that it names."""
        return cls(
            of_recipe(recipe, "reasoner"),
            of_recipe(recipe, "prompt_interface"),
            of_recipe(recipe, "segmenter"),
            prompt=recipe.config.prompt,
            text_from=recipe.config.text_from,
            sampling=Sampling(**asdict(recipe.config.sampling)),
            allow_untrained=recipe.config.allow_untrained,
            cache=cache,
            recipe=recipe,
            segments=segments,
        )

    @property
    def as_recipe(self) -> Recipe:
        """The recipe it was made from; without one, a recipe of its settings, with its components as objects."""
        if self.recipe is not None:
            return self.recipe
        prompt = {"prompt": [str(kind) for kind in self.selection.kinds], "text_from": str(self.selection.text_from)}
        settings = {**prompt, "allow_untrained": self.allow_untrained}
        return resolve({**settings, "sampling": asdict(self.sampling)}, values=self.components)

    def reuse(self, other: "Pipeline") -> None:
        """Take over the components that another pipeline has built, as far as its recipe and this one's agree on them."""
        for kind, component in self.components.items():
            before = other.components.get(kind)
            if isinstance(component, Deferred) and isinstance(before, Deferred) and component.digest == before.digest:
                vars(self).update({kind: vars(other)[kind]} if kind in vars(other) else {})

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(f'{kind}={self.name(kind)}' for kind in self.components)})"

    @cached_property
    def reasoner(self) -> Reasoner:
        """The reasoner, built on first use."""
        return self._component("reasoner")  # type: ignore[no-any-return]

    @cached_property
    def prompt_interface(self) -> PromptInterface:
        """The prompt interface, built on first use; where it asks models in their own way, in the reasoner's dialect.
        Raises `RecipeError` if it gives nothing that may prompt the segmenter."""
        interface: Any = self._component("prompt_interface")
        dialect = self._dialect() if getattr(interface, "needs_dialect", False) else None
        spoken: PromptInterface = interface if dialect is None else interface.speaking(dialect)
        error = never_given(self.selection, self.name("prompt_interface"), spoken.provides)
        if error and "segmenter" in self.components:
            raise error
        return spoken

    def _dialect(self) -> str | None:
        """Return the dialect that the reasoner names, or its factory before it is built; None where neither does."""
        component = self.components.get("reasoner")
        named = getattr(component.factory() if isinstance(component, Deferred) else component, "dialect", None)
        return named or getattr(component and self.reasoner, "dialect", None)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter, built on first use."""
        return self._component("segmenter")  # type: ignore[no-any-return]

    @cached_property
    def accepts(self) -> frozenset[PromptKind]:
        """The prompt kinds that the segmenter was trained for; it is built only where its factory does not say them."""
        kinds = declared_kinds(self.components.get("segmenter"), "accepts")
        return self.segmenter.accepts if kinds is None else kinds

    @cached_property
    def untrained(self) -> list[str]:
        """The prompt kinds that the segmenter is given and was not trained for; results say so."""
        provides = declared_kinds(self.components.get("prompt_interface"), "provides")
        accepts = declared_kinds(self.components.get("segmenter"), "accepts")
        if provides is None or accepts is None:
            return []
        return sorted(self.selection.given(provides) - accepts)

    def name(self, kind: str) -> str:
        """Return what reports call the component of a kind.

        Raises:
            RecipeError: if the pipeline has none.
        """
        if kind not in self.components:
            raise RecipeError(
                f"the pipeline has no {kind}", hint=f"set {kind}=NAME in the recipe, or pass {kind}=OBJECT"
            )
        component = self.components[kind]
        return component.name if isinstance(component, Deferred) else type(component).__name__

    def __call__(
        self,
        image: ImageSource | Query,
        question: str | None = None,
        *,
        plane: str | None = None,
        slice: int | None = None,
        window: str | None = None,
    ) -> GroundingResult:
        """Answer one question about one image.

        Args:
            image: a file's path, an array (H x W grey or H x W x 3 RGB, uint8), a PIL image, or a `Query`.
            question: what is asked; a query has its own.
            plane: of a volume's file: ``axial``, ``coronal`` or ``sagittal``.
            slice: of a volume's file, or the frame of a film's, from 0.
            window: of a DICOM or NIfTI file: how values become grey, see `medground.images.view.View`.

        Raises:
            InputError: if the image cannot be read, or is of another kind.
            UsageError: if a question is missing or given twice, or a view is given of what is no file.
        """
        return self.batch([as_query(image, question, plane=plane, slice=slice, window=window)])[0]

    def batch(self, queries: Sequence[Query]) -> list[GroundingResult]:
        """Answer several queries together, in order. Queries about one image encode it once."""
        completions = [group[0] for group in self.completions(queries, replace(self.sampling, num_generations=1))]
        groundings = [self.ground(query, completion) for query, completion in zip(queries, completions, strict=True)]
        prompts = [self.prompts(query, grounding) for query, grounding in zip(queries, groundings, strict=True)]
        outcomes = self.masks([(query.image, own) for query, own in zip(queries, prompts, strict=True)])
        outcomes = [outcome.of(grounding) for outcome, grounding in zip(outcomes, groundings, strict=True)]
        return [
            GroundingResult(
                query=query,
                completion=completion,
                grounding=grounding.with_masks(segmented.masks),
                fault=completion.fault or grounding.fault or segmented.fault,
                cause=completion.cause or segmented.cause,
                prompts=tuple(own),
            )
            for query, completion, grounding, segmented, own in zip(
                queries, completions, groundings, outcomes, prompts, strict=True
            )
        ]

    def rollouts(self, samples: Sequence[Sample], completions: Sequence[Completion], *, masks: bool) -> list[Rollout]:
        """Read one completion per sample, in order, and segment what they point at if `masks` says so."""
        rollouts = [
            Rollout(
                sample=sample,
                completion=completion,
                grounding=self.ground(sample.query, completion),
                fault=completion.fault,
                cause=completion.cause if completion.fault else "",
            )
            for sample, completion in zip(samples, completions, strict=True)
        ]
        if not masks:
            return rollouts
        jobs = [(rollout.sample.query, rollout.grounding) for rollout in rollouts]
        outcomes = self.masks([(query.image, self.prompts(query, grounding)) for query, grounding in jobs])
        return [segmented.put_into(rollout) for rollout, segmented in zip(rollouts, outcomes, strict=True)]

    def completions(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Completion]]:
        """Return G completions per query, from the cache where the same reasoner answered the same query before."""
        feeds = self._feeds("reasoner", "prompt_interface")
        cache = self.cache if feeds is not None else None
        keys = [query_key(feeds or "", query, sampling) for query in queries] if cache else []
        groups: list[list[Completion] | None] = (
            [cache.completions(key) for key in keys] if cache else [None] * len(queries)
        )
        missing = [index for index, group in enumerate(groups) if group is None]
        if missing:
            if self.recipe is not None and "reasoner" not in vars(self):  # not built yet
                require_checkpoints(self.recipe, "reasoner", *["segmenter"] * self.segments)
            answers = ask(self.reasoner, self.prompt_interface, [queries[index] for index in missing], sampling)
            for index, group in zip(missing, answers, strict=True):
                groups[index] = group
                if cache and all(completion.fault is None for completion in group):
                    cache.put_completions(keys[index], group)
        return [group for group in groups if group is not None]

    def ground(self, query: Query, completion: Completion) -> Grounding:
        """Read one completion.

        Where there is no text, its fault is the grounding's; one that ended at the length limit before its answer is cut off.
        """
        if completion.fault is not None:
            return Grounding(fault=completion.fault)
        grounding = self.prompt_interface.parse(completion, query.size)
        if completion.finish_reason == "length" and grounding.fault in UNFINISHED:
            return replace(grounding, fault=Fault.CUT_OFF)
        return grounding

    def prompts(self, query: Query, grounding: Grounding) -> list[SpatialPrompt | None]:
        """Return the prompts for the segmenter, one per region of an answer; None where a region lacks what was chosen."""
        return self.selection.prompts(grounding.regions, query.question)

    def masks(self, answers: Answers) -> list[Segmented]:
        """Hand each image to the segmenter once; return one outcome per answer, with one mask per prompt."""
        feeds = self._feeds("segmenter")
        return segment(lambda: self.segmenter, answers, None if feeds is None else self.cache, feeds or "")

    def _component(self, kind: str) -> Any:
        self.name(kind)
        component = self.components[kind]
        return component.build() if isinstance(component, Deferred) else component

    def _feeds(self, *kinds: str) -> str | None:
        """Return what stands for some components in the cache; None without a cache, or where one of them is an object."""
        components = [self.components.get(kind) for kind in kinds]
        deferred = [component for component in components if isinstance(component, Deferred)]
        if self.cache is None or len(deferred) < len(components):
            return None
        return " ".join(f"{component.digest} {component.content()}" for component in deferred)


def _selection(prompt: str | Sequence[str], text_from: str) -> PromptSelection:
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


def load(
    recipe: Source,
    *overrides: str,
    reasoner: Reasoner | None = None,
    prompt_interface: PromptInterface | None = None,
    segmenter: Segmenter | None = None,
    cache: StageCache | None = None,
) -> Pipeline:
    """Return the pipeline of a recipe; components are built when they are first needed.

    >>> import medground
    >>> medground.load("infer/toy", "segmenter=ellipse")
    Pipeline(reasoner=toy, prompt_interface=bbox_points, segmenter=ellipse)

    Args:
        recipe: a shipped name such as ``"infer/toy"``, a path, a run folder, a mapping, or a resolved recipe.
        overrides: ``"a.b=c"`` strings, as on the command line.
        reasoner: an object in place of the component that the recipe names.
        prompt_interface: the same.
        segmenter: the same.
        cache: where completions and masks are kept, if at all; pipelines share what they have in common in one.

    Raises:
        RecipeError: if the recipe cannot be used as written, or is of a run that was given an object in the place of a
            component, and the object is not given again.
        PluginError: if it names a component that is missing, broken or ambiguous.
    """
    given = {"reasoner": reasoner, "prompt_interface": prompt_interface, "segmenter": segmenter}
    values = {kind: component for kind, component in given.items() if component is not None}
    resolved = resolve(recipe, *overrides, values=values)
    check(resolved)
    return Pipeline.from_recipe(resolved, cache=cache)
