"""What stages produced, kept by what fed them.

A store in memory lasts as long as its graphs; a store with a folder writes one JSON line per entry and is read back
by the next process. What a kill has torn, or another hand has changed into something else, is skipped: that entry is simply
made again.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

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


class _Bits(TypedDict):
    """A mask as kept."""

    size: tuple[int, int]
    bits: str
    score: float


class _Runs(TypedDict):
    """A mask among many as kept, see `medground.images.rle`."""

    size: tuple[int, int]
    counts: str
    score: float


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
        bits = np.packbits(mask.data).tobytes().hex()
        entry = {"size": list(mask.data.shape), "bits": bits, "score": float(mask.score)}
        self._put("masks", _prompt_key(feeds, image, prompt), entry)

    def proposals(self, feeds: str, image: str) -> list[Mask] | None:
        """Return the masks that were proposed for an image, or None."""
        masks: list[Mask] | None = self._get("proposals", f"{feeds} {image}", _proposals)
        return masks

    def put_proposals(self, feeds: str, image: str, masks: list[Mask]) -> None:
        """Keep what was proposed for an image."""
        entry = [{**encode_rle(mask.data), "score": float(mask.score)} for mask in masks]
        self._put("proposals", f"{feeds} {image}", entry)

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
    parts = [feeds, image, json.dumps([prompt.box, prompt.points, prompt.labels])]
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


def _proposals(entry: Any) -> list[Mask]:
    written: list[_Runs] = restore(list[_Runs], entry)
    try:
        return [
            Mask(data=decode_rle({"size": list(one["size"]), "counts": one["counts"]}), score=one["score"])
            for one in written
        ]
    except InputError as error:
        raise ValueError(str(error)) from error


def _mask(entry: Any) -> Mask:
    written: _Bits = restore(_Bits, entry)
    packed, (height, width) = np.frombuffer(bytes.fromhex(written["bits"]), np.uint8), written["size"]
    if packed.size != -(-height * width // 8):
        raise ValueError(f"{packed.size} bytes are no mask of {height} x {width}")
    data = np.unpackbits(packed, count=height * width).astype(bool).reshape(height, width)
    return Mask(data=data, score=written["score"])
