"""A conversation, completions of unequal length and two samplings, for the tests of reasoners."""

import numpy as np

from medground.types import Sampling


def conversation(text="Where is the shadow?", height=90, width=120, seed=0):
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def scored(reasoner, messages, completions, *, temperature=1.0):
    """Return [G, C] log-probabilities of completions under the policy, with gradient."""
    return reasoner.policy(reasoner.group(messages, completions), temperature)[0]


def trained_parameters(reasoner):
    return [parameter for parameter in reasoner.policy.parameters() if parameter.requires_grad]


RAGGED = [[5, 9, 30, 41, 7, 300], [8, 8], [90, 91, 92, 93, 94, 95, 96, 97, 98], [17]]
"""Completions of unequal length, as token ids."""
GREEDY = Sampling(num_generations=1, temperature=0.0, max_completion_length=20)
SAMPLED = Sampling(num_generations=4, temperature=1.0, max_completion_length=20, seed=3)
