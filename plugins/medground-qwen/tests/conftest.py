"""Tiny checkpoints of the real architectures, written once per session in the released layout."""

import numpy as np
import pytest

from medground.types import Sampling


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    from medground_qwen import tiny

    folders = {}
    for architecture in ("qwen2_5_vl", "qwen3_vl"):
        words = tiny.tokenizer()
        folders[architecture] = tmp_path_factory.mktemp(architecture)
        made = tiny.model(architecture, words, patch=8)
        tiny.save(folders[architecture], made, tiny.processor(architecture, words, patch=8, max_side=128))
    return folders


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def architecture(request):
    return request.param


@pytest.fixture
def make(checkpoints, architecture):
    """A fresh reasoner of the architecture under test."""
    from medground_qwen import factories

    return lambda **arguments: getattr(factories, architecture)(
        checkpoint=str(checkpoints[architecture]), dtype="float32", device="cpu", **arguments
    )


def conversation(text="Where is the shadow?", height=90, width=120, seed=0):
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


RAGGED = [[5, 9, 30, 41, 7, 300], [8, 8], [90, 91, 92, 93, 94, 95, 96, 97, 98], [17]]
"""Completions of unequal length, as token ids."""
GREEDY = Sampling(num_generations=1, temperature=0.0, max_completion_length=20)
SAMPLED = Sampling(num_generations=4, temperature=1.0, max_completion_length=20, seed=3)
