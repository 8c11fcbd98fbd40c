"""From a question about an image to masks: the components, and a cache between them.

    query -> candidates (proposer, where there is one) -> completion (reasoner) -> grounding (prompt interface)
          -> masks (segmenter)

Stages are keyed by what feeds them: a pipeline that differs only in its segmenter takes its completions from a `StageCache`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Self

from medground.errors import RecipeError
from medground.images.query import ImageSource, as_query
from medground.pipeline.cache import StageCache
from medground.pipeline.completions import ask, kept
from medground.pipeline.components import Deferred, declared_kinds, of_recipe
from medground.pipeline.masks import Answers, Segmented, segment
from medground.pipeline.proposals import ChoosingInterface, Proposals, Proposed, knowing
from medground.pipeline.result import GroundingResult
from medground.pipeline.selection import selection_of
from medground.protocols import PromptInterface, Reasoner, Segmenter
from medground.recipe import Recipe, require_checkpoints, resolve
from medground.recipe.check import never_given, without_input
from medground.recipe.choosing import GRID_KINDS
from medground.recipe.schema import ProposalsConfig
from medground.types import (
    Completion,
    Fault,
    Grounding,
    Messages,
    PromptKind,
    Query,
    Rollout,
    Sample,
    Sampling,
    SpatialPrompt,
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
        proposer: a segmenter that finds candidates first, for a prompt interface that chooses among them; it may be the same.
            A grid of points prompts it; one that reads text and is not the same, the question. The mask of the chosen one
            stays where it is the same or there is no segmenter; another segmenter draws it anew.
        proposals: how many candidates, and how they are found.
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
        proposer: Segmenter | Deferred[Segmenter] | None = None,
        proposals: ProposalsConfig | None = None,
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
                "proposer": proposer,
                "segmenter": segmenter,
            }.items()
            if component is not None
        }
        self.proposals = proposals or ProposalsConfig()
        self.selection = selection_of(prompt, text_from)
        self.sampling = sampling
        self.allow_untrained = allow_untrained
        self.cache = cache
        self.recipe = recipe
        self.segments = segments
        if isinstance(segmenter, Deferred | None) or not (kinds := self.untrained):
            return
        if error := without_input(self.name("segmenter"), kinds, self.accepts):
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
            **of_recipe(recipe),
            proposals=recipe.config.proposals,
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
        settings: dict[str, Any] = {
            "prompt": [str(kind) for kind in self.selection.kinds],
            "text_from": str(self.selection.text_from),
            "allow_untrained": self.allow_untrained,
        }
        if "proposer" in self.components:
            settings["proposals"] = asdict(self.proposals)
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
        if error and "segmenter" in self.components and not self.keeps_masks:
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
    def proposer(self) -> Segmenter:
        """The segmenter that proposes, built on first use."""
        same = self.components.get("proposer") is self.components.get("segmenter")
        return self.segmenter if same else self._component("proposer")

    @cached_property
    def _proposals(self) -> Proposals:
        """The proposal stage, which keeps what it proposed with this pipeline where no cache may."""
        feeds, proposer = self._feeds("proposer"), self.components["proposer"]
        cache = StageCache() if self.cache is None or feeds is None else self.cache
        accepts = declared_kinds(proposer, "accepts")
        reads = "text" in (self.proposer.accepts if accepts is None else accepts)
        by_text = reads and proposer is not self.components.get("segmenter")
        return Proposals(lambda: self.proposer, self.proposals, cache, feeds or "", by_text=by_text)

    @property
    def keeps_masks(self) -> bool:
        """True where the mask of a region is that of the candidate it is: no segmenter draws it anew."""
        proposer = self.components.get("proposer")
        return proposer is not None and self.components.get("segmenter") in (None, proposer)

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
        return sorted((GRID_KINDS if self.keeps_masks else self.selection.given(provides)) - accepts)

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
        queries = [proposed.query for proposed in self.proposed(queries)]
        completions = [group[0] for group in self.completions(queries, replace(self.sampling, num_generations=1))]
        groundings = [self.ground(query, completion) for query, completion in zip(queries, completions, strict=True)]
        prompts = [self.prompts(query, grounding) for query, grounding in zip(queries, groundings, strict=True)]
        outcomes = self.drawn(queries, groundings)
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
                sample=replace(sample, query=proposed.query),
                completion=completion,
                grounding=proposed.unanswered or self.ground(proposed.query, completion),
                fault=completion.fault or proposed.fault,
                cause=completion.cause if completion.fault else proposed.cause,
            )
            for sample, proposed, completion in zip(
                samples, self.proposed([sample.query for sample in samples]), completions, strict=True
            )
        ]
        if not masks:
            return rollouts
        outcomes = self.drawn(
            [rollout.sample.query for rollout in rollouts], [rollout.grounding for rollout in rollouts]
        )
        return [segmented.put_into(rollout) for rollout, segmented in zip(rollouts, outcomes, strict=True)]

    def proposed(self, queries: Sequence[Query]) -> list[Proposed]:
        """Return the queries with their candidates, or why there are none; as they are without a proposer.

        Raises:
            RecipeError: if it proposes for a prompt interface that does not choose.
        """
        if "proposer" not in self.components:
            return [Proposed(query) for query in queries]
        if not isinstance(self.prompt_interface, ChoosingInterface):
            what = f"the prompt interface {self.name('prompt_interface')} does not choose among candidates"
            raise RecipeError(what, hint="set prompt_interface=choose, or give no proposer")
        return self._proposals(queries)

    def render(self, query: Query) -> Messages:
        """Return the conversation that asks a query, with its candidates where there is a proposer."""
        [proposed] = self.proposed([query])
        return self.prompt_interface.render(proposed.query)

    def knowing(self, query: Query) -> PromptInterface:
        """Return the prompt interface that reads and writes answers about a query."""
        [proposed] = self.proposed([query])
        return knowing(self.prompt_interface, proposed.query)

    def completions(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Completion]]:
        """Return G completions per query, from the cache where the same reasoner answered the same query before.

        Where the proposer failed nobody is asked: its fault is that of the completions.
        """
        proposed = self.proposed(queries)
        feeds = self._feeds("reasoner", "prompt_interface", *["proposer"] * ("proposer" in self.components))
        if feeds is not None and "proposer" in self.components:
            feeds += self._proposals.feeds
        answerable = [one.query for one in proposed if one.fault is None]
        groups = iter(kept(answerable, sampling, lambda missing: self._ask(missing, sampling), self.cache, feeds))
        return [next(groups) if one.refusal is None else [one.refusal] * sampling.num_generations for one in proposed]

    def _ask(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Completion]]:
        if self.recipe is not None and "reasoner" not in vars(self):  # not built yet
            require_checkpoints(self.recipe, "reasoner", *["segmenter"] * self.segments)
        return ask(self.reasoner, self.prompt_interface, queries, sampling)

    def ground(self, query: Query, completion: Completion) -> Grounding:
        """Read one completion.

        Where there is no text, its fault is the grounding's; one that ended at the length limit before its answer is cut off.
        """
        if completion.fault is not None:
            return Grounding(fault=completion.fault)
        grounding = self.knowing(query).parse(completion, query.size)
        if completion.finish_reason == "length" and grounding.fault in UNFINISHED:
            return replace(grounding, fault=Fault.CUT_OFF)
        return grounding

    def prompts(self, query: Query, grounding: Grounding) -> list[SpatialPrompt | None]:
        """Return the prompts for the segmenter, one per region of an answer.

        None where a region lacks what was chosen, or its mask stays that of its candidate.
        """
        if self.keeps_masks:
            return [None] * len(grounding.regions)
        return self.selection.prompts(grounding.regions, query.question)

    def drawn(self, queries: Sequence[Query], groundings: Sequence[Grounding]) -> list[Segmented]:
        """Return the masks of what answers point at: the candidates' own, or those that the segmenter draws."""
        if self.keeps_masks:
            return [Segmented(tuple(region.mask for region in grounding.regions)) for grounding in groundings]
        return self.masks(
            [
                (query.image, self.prompts(query, grounding))
                for query, grounding in zip(queries, groundings, strict=True)
            ]
        )

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
