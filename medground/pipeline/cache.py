"""What stages produced, kept by what fed them.

A store in memory lasts as long as its graphs; a store with a folder writes one JSON line per entry and is read back
by the next process. What a kill has torn, or another hand has changed into something else, is skipped: that entry is simply
made again.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from medground.errors import InputError
from medground.frames import Frame, FrameDict
from medground.images.rle import decode_rle, encode_rle
from medground.runs.files import JsonLines
from medground.runs.jsonable import restore
from medground.segmenters.batching import image_key
from medground.types import Completion, Mask, Query, Sampling, SpatialPrompt

STAGES = ("proposals", "completions", "masks")


def query_key(feeds: str, query: Query, sampling: Sampling) -> str:
    """Return the identity of a completion stage entry: the components that feed it, the question, the image, the sampling."""
    parts = [feeds, image_key(query.image), query.question, json.dumps(asdict(sampling), sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


class _Text(TypedDict):
    """A completion as kept."""

    text: str
    frame: FrameDict | None
    finish_reason: Literal["stop", "length"]


class _Runs(TypedDict):
    """A mask as kept, see `medground.images.rle`."""

    size: tuple[int, int]
    counts: str
    score: float


class _Kept(_Runs):
    """A mask as kept, with what else the segmenter said."""

    instances: list[_Runs]
    presence: float | None


class StageCache:
    """Completions, masks and proposals by key.

    Args:
        folder: where to keep them between processes; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.hits = dict.fromkeys(STAGES, 0)
        """How often an entry was asked for and found."""
        self.misses = dict.fromkeys(STAGES, 0)
        """How often it was not: of completions, what the reasoner was asked."""
        self.tokens = 0
        """Of the completions kept, as far as their reasoners say."""
        self._entries: dict[str, dict[str, Any]] = {stage: {} for stage in STAGES}
        self._files: dict[str, JsonLines] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for stage in self._entries:
                file = self._files[stage] = JsonLines(folder / f"{stage}.jsonl", allow_nan=True)
                self._entries[stage] = dict(filter(_is_entry, file.read()))

    def completions(self, key: str) -> list[Completion] | None:
        """Return the completions kept under a key, or None. Token ids and log-probabilities are not kept."""
        group: list[Completion] | None = self._get("completions", key, _completions)
        return group

    def put_completions(self, key: str, group: list[Completion]) -> None:
        """Keep a group of completions."""
        self.tokens += sum(map(_tokens, group))
        self._put("completions", key, [_plain(completion) for completion in group])

    def mask(self, feeds: str, image: str, prompt: SpatialPrompt) -> Mask | None:
        """Return the mask a segmenter gave for an image and a prompt, or None."""
        mask: Mask | None = self._get("masks", _prompt_key(feeds, image, prompt), _mask)
        return mask

    def put_mask(self, feeds: str, image: str, prompt: SpatialPrompt, mask: Mask) -> None:
        """Keep a mask."""
        self._put("masks", _prompt_key(feeds, image, prompt), _written(mask))

    def proposals(self, feeds: str, image: str, text: str) -> list[Mask] | None:
        """Return the masks that were proposed for an image and a text, "" where none was asked with, or None."""
        masks: list[Mask] | None = self._get("proposals", json.dumps([feeds, image, text]), _masks)
        return masks

    def put_proposals(self, feeds: str, image: str, text: str, masks: list[Mask]) -> None:
        """Keep what was proposed for an image and a text."""
        self._put("proposals", json.dumps([feeds, image, text]), [_written(mask) for mask in masks])

    def _get(self, stage: str, key: str, read: Callable[[Any], Any]) -> Any:
        value = None
        if key in self._entries[stage]:
            with suppress(ValueError):
                value = read(self._entries[stage][key])
        (self.misses if value is None else self.hits)[stage] += 1
        return value

    def _put(self, stage: str, key: str, entry: Any) -> None:
        self._entries[stage][key] = entry
        if stage in self._files:
            self._files[stage].append([key, entry])
            self._files[stage].close()


def _prompt_key(feeds: str, image: str, prompt: SpatialPrompt) -> str:
    parts = [feeds, image, json.dumps(asdict(prompt), sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _tokens(completion: Completion) -> int:
    if completion.token_ids is not None:
        return len(completion.token_ids)
    return int(completion.usage.get("completion_tokens", 0))


def _is_entry(line: Any) -> bool:
    return isinstance(line, list) and len(line) == 2 and isinstance(line[0], str)


def _plain(completion: Completion) -> _Text:
    return {
        "text": completion.text,
        "frame": None if completion.frame is None else completion.frame.to_dict(),
        "finish_reason": completion.finish_reason,
    }


def _completions(entry: Any) -> list[Completion]:
    texts: list[_Text] = restore(list[_Text], entry)
    return [
        Completion(
            text=text["text"],
            frame=None if text["frame"] is None else Frame.from_dict(text["frame"]),
            finish_reason=text["finish_reason"],
        )
        for text in texts
    ]


def _written(mask: Mask) -> dict[str, Any]:
    return {
        **_runs(mask),
        "instances": [_runs(instance) for instance in mask.instances],
        "presence": None if mask.presence is None else float(mask.presence),
    }


def _runs(mask: Mask) -> dict[str, Any]:
    return {**encode_rle(mask.data), "score": float(mask.score)}


def _masks(entry: Any) -> list[Mask]:
    written: list[_Kept] = restore(list[_Kept], entry)
    return [
        replace(_drawn(one), instances=tuple(map(_drawn, one["instances"])), presence=one["presence"])
        for one in written
    ]


def _mask(entry: Any) -> Mask:
    [mask] = _masks([entry])
    return mask


def _drawn(runs: _Runs) -> Mask:
    try:
        return Mask(data=decode_rle({"size": list(runs["size"]), "counts": runs["counts"]}), score=runs["score"])
    except InputError as error:
        raise ValueError(str(error)) from error
