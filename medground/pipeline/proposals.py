"""The proposal stage: the candidates of an image, found before the reasoner is asked, of which its answer chooses one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol, runtime_checkable

from medground.data.key_points import halves
from medground.errors import RunError, SegmenterMemoryError
from medground.geometry import mask_box
from medground.pipeline.cache import StageCache
from medground.protocols import PromptInterface, Segmenter
from medground.recipe.schema import ProposalsConfig
from medground.segmenters.batching import image_key
from medground.segmenters.proposals import point_prompts, propose
from medground.types import Completion, Fault, Grounding, Image, Mask, Query, Region, SpatialPrompt


@runtime_checkable
class ChoosingInterface(PromptInterface, Protocol):
    """A prompt interface whose answers choose among the candidates of a query: it reads and writes once it knows them."""

    def among(self, candidates: Sequence[Region]) -> PromptInterface:
        """Return the interface that reads and writes answers about these candidates, numbered from 1."""


def knowing(interface: PromptInterface, query: Query) -> PromptInterface:
    """Return an interface as it reads and writes answers about a query: one that chooses knows the candidates."""
    return interface.among(query.candidates or ()) if isinstance(interface, ChoosingInterface) else interface


@dataclass(frozen=True, slots=True)
class Proposed:
    """A query with its candidates, or why there are none."""

    query: Query
    fault: Fault | None = None
    cause: str = ""

    @property
    def refusal(self) -> Completion | None:
        """What stands for a completion where the proposer failed: nobody can be asked. None where it did not."""
        return None if self.fault is None else Completion(text="", frame=None, fault=self.fault, cause=self.cause)

    @property
    def unanswered(self) -> Grounding | None:
        """What stands for a reading of any text where the proposer failed; None where it did not."""
        return None if self.fault is None else Grounding(fault=self.fault)


class Proposals:
    """Proposes for images, each once, or once for each question where that is what prompts.

    Args:
        proposer: gives the segmenter; called only where something is not in the cache.
        config: how many candidates, and how they are found.
        cache: where they are kept.
        feeds: stands for the segmenter in the cache.
        by_text: prompt with the question in place of a grid of points.
    """

    def __init__(
        self,
        proposer: Callable[[], Segmenter],
        config: ProposalsConfig,
        cache: StageCache,
        feeds: str,
        *,
        by_text: bool,
    ) -> None:
        self.proposer, self.config, self.cache, self.by_text = proposer, config, cache, by_text
        self.feeds = f"{feeds} {json.dumps(asdict(config), sort_keys=True)}"
        """Stands for what makes the candidates."""

    def __call__(self, queries: Sequence[Query]) -> list[Proposed]:
        """Return the queries with their candidates; one that has candidates already keeps them.

        A failure is not kept in the cache.
        """
        outcomes: dict[tuple[str, str], list[Mask] | tuple[Fault, str]] = {}
        proposed = []
        for query in queries:
            if query.candidates is not None:
                proposed.append(Proposed(query))
                continue
            key = image_key(query.image), query.question if self.by_text else ""
            if key not in outcomes:
                outcomes[key] = self._masks(*key, query.image)
            masks = outcomes[key]
            proposed.append(
                Proposed(query, *masks) if isinstance(masks, tuple) else Proposed(with_candidates(query, masks))
            )
        return proposed

    def _masks(self, key: str, text: str, image: Image) -> list[Mask] | tuple[Fault, str]:
        masks = self.cache.proposals(self.feeds, key, text)
        if masks is not None:
            return masks
        segmenter, config = self.proposer(), self.config
        try:
            prompts = [SpatialPrompt(text=text)] if self.by_text else point_prompts(image, config.side)
            masks = propose(
                segmenter, image, prompts, k=config.k, overlap=config.overlap, least_score=config.least_score
            )
        except RunError:
            raise
        except (MemoryError, SegmenterMemoryError) as error:
            return Fault.OUT_OF_MEMORY, f"out of memory: {error}"
        except Exception as error:  # noqa: BLE001  a third-party segmenter may raise anything; counted, with its cause
            return Fault.SEGMENTER, f"{type(segmenter).__name__} failed to propose: {type(error).__name__}: {error}"
        self.cache.put_proposals(self.feeds, key, text, masks)
        return masks


def with_candidates(query: Query, masks: Sequence[Mask]) -> Query:
    """Return a query with a candidate for each mask: its tight box, a key point in each of its halves, and the mask."""
    return replace(
        query,
        candidates=tuple(Region(box=mask_box(mask.data), points=halves(mask.data), mask=mask) for mask in masks),
    )
