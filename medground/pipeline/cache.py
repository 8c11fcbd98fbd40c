"""What stages produced, kept by what fed them.

A store in memory lasts as long as its graphs; a store with a folder writes one JSON line per entry and is read back
by the next process. A line torn by a kill is skipped: that entry is simply made again.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medground.frames import Frame
from medground.runs.files import JsonLines
from medground.segmenters.batching import image_key
from medground.types import Completion, Mask, Query, Sampling, SpatialPrompt


def query_key(feeds: str, query: Query, sampling: Sampling) -> str:
    """Return the identity of a completion stage entry: the components that feed it, the question, the image, the sampling."""
    parts = [feeds, image_key(query.image), query.question, json.dumps(asdict(sampling), sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


class StageCache:
    """Completions and masks by key.

    Args:
        folder: where to keep them between processes; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.hits = {"completions": 0, "masks": 0}
        """How often an entry was asked for and found."""
        self.misses = {"completions": 0, "masks": 0}
        """How often it was not: of completions, what the reasoner was asked."""
        self.tokens = 0
        """Of the completions kept, as far as their reasoners say."""
        self._entries: dict[str, dict[str, Any]] = {"completions": {}, "masks": {}}
        self._files: dict[str, JsonLines] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for stage in self._entries:
                file = self._files[stage] = JsonLines(folder / f"{stage}.jsonl", allow_nan=True)
                self._entries[stage] = dict(file.read())

    def completions(self, key: str) -> list[Completion] | None:
        """Return the completions kept under a key, or None. Token ids and log-probabilities are not kept."""
        entry = self._get("completions", key)
        return None if entry is None else [_completion(item) for item in entry]

    def put_completions(self, key: str, group: list[Completion]) -> None:
        """Keep a group of completions."""
        self.tokens += sum(map(_tokens, group))
        self._put("completions", key, [_plain(completion) for completion in group])

    def mask(self, feeds: str, image: str, prompt: SpatialPrompt) -> Mask | None:
        """Return the mask a segmenter gave for an image and a prompt, or None."""
        entry = self._get("masks", _prompt_key(feeds, image, prompt))
        if entry is None:
            return None
        height, width = entry["size"]
        packed = np.frombuffer(bytes.fromhex(entry["bits"]), np.uint8)
        data = np.unpackbits(packed, count=height * width).astype(bool).reshape(height, width)
        return Mask(data=data, score=entry["score"])

    def put_mask(self, feeds: str, image: str, prompt: SpatialPrompt, mask: Mask) -> None:
        """Keep a mask."""
        bits = np.packbits(mask.data).tobytes().hex()
        entry = {"size": list(mask.data.shape), "bits": bits, "score": float(mask.score)}
        self._put("masks", _prompt_key(feeds, image, prompt), entry)

    def _get(self, stage: str, key: str) -> Any:
        entry = self._entries[stage].get(key)
        (self.misses if entry is None else self.hits)[stage] += 1
        return entry

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


def _plain(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "frame": completion.frame and completion.frame.to_dict(),
        "finish_reason": completion.finish_reason,
    }


def _completion(entry: dict[str, Any]) -> Completion:
    frame = entry["frame"]
    return Completion(
        text=entry["text"],
        frame=frame and Frame.from_dict(frame),
        finish_reason=entry["finish_reason"],
    )
