"""Whether the installed torch, transformers and peft fit together: everything once, on the tiny model of the package."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from medground.types import Sampling
from medground_qwen.factories import reasoner
from medground_qwen.families import QWEN3_VL


def self_check() -> None:
    """Adapt the tiny model, let it write, compute a gradient, save the adapter, and load it with equal results."""
    folder = str(Path(__file__).with_name("toy_vlm"))
    make = partial(reasoner, QWEN3_VL, checkpoint=folder, dtype="float32", device="cpu", lora_rank=1)
    adapted = make(gradient_checkpointing=True)
    image = np.zeros((64, 64, 3), np.uint8)
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Where?"}]}]
    (group,) = adapted.generate([messages], Sampling(num_generations=2, max_completion_length=3))
    batch = adapted.group(messages, group)
    adapted.policy(batch)[0].sum().backward()
    trained = [parameter for parameter in adapted.policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    optimizer.step()
    with tempfile.TemporaryDirectory() as saved, torch.no_grad():
        adapted.save(Path(saved))
        again = make(adapter=saved)
        with adapted.reference() as reference:
            start = reference(batch)[0]
        learnt = adapted.policy(batch)[0]
        assert not torch.equal(learnt, start), "the adapter did not learn"
        torch.testing.assert_close(again.policy(batch)[0], learnt)
