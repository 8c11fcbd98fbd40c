"""What is measured of every family on its tiny checkpoint: by the tests, and by `benchmarks/families.py`."""

from dataclasses import dataclass

import other_families
import torch
import transformers
from PIL import Image
from qwen_inputs import conversation

import medground
from medground.runs.folder import read_events
from medground.training.export import export
from medground.types import Sampling, image_of

BATCH = [conversation("Where?", 48, 64), conversation("Which of them is on the left?", 64, 40, seed=1)]
"""Prompts of unequal length about images of unequal size."""
SAMPLED = Sampling(num_generations=3, temperature=1.0, max_completion_length=8)
WRITTEN = 6
"""Tokens that are compared of an exported model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Completions of two questions that were sampled together."""

    update: float
    """The largest difference of a token's log-probability from the update's."""
    alone: float
    """The largest difference from the same question sampled alone."""
    same: bool
    """Whether each question alone gives the same tokens."""


def sampled(reasoner):
    """Sample two questions together and each alone; compute both as the update does."""
    update = alone = 0.0
    same = True
    together = reasoner.generate(BATCH, SAMPLED, [1, 50])
    for messages, seed, group in zip(BATCH, (1, 50), together, strict=True):
        (single,) = reasoner.generate([messages], SAMPLED, [seed])
        logp, _ = reasoner.policy(reasoner.group(messages, group))
        for row, completion, own in zip(logp.detach(), group, single, strict=True):
            same &= completion.token_ids.tolist() == own.token_ids.tolist()
            stored = torch.from_numpy(completion.logprobs)
            update = max(update, float((row[: len(stored)] - stored).abs().max()))
            if same:
                alone = max(alone, float((torch.from_numpy(own.logprobs) - stored).abs().max()))
    return Sampled(update=update, alone=alone, same=same)


def spread(rollout):
    """A reward that differs between completions."""
    return int(rollout.completion.token_ids.sum()) % 7 / 7


def train(name, folder, data, out, *, method, rank):
    """Train one step by ``sft`` or ``grpo``, of the weights or of an adapter of some rank; return the run and its step."""
    recipe = {
        "reasoner": other_families.section(name, folder, lora_rank=rank),
        "prompt_interface": {"name": "bbox", "template": str(data / "template.txt")},
        "data": {"path": str(data)},
    }
    every = {"train_batch_size": 2, "max_steps": 1, "learning_rate": 1e-2}
    if method == "sft":
        run = medground.train({**recipe, "sft": every}, out=out)
    else:
        groups = {"num_generations": 4, "mini_batch_size": 2, "micro_batch_size": 2, "max_completion_length": 4}
        run = medground.train({**recipe, "grpo": every | groups}, out=out, rewards={"spread": spread})
    (step,) = read_events(run.folder)
    return run, step


def changed(before, after):
    """Return the names of the parameters that differ, and of those that do not."""
    others = dict(after.named_parameters())
    moved = {name for name, value in before.named_parameters() if not torch.equal(value, others[name])}
    return moved, set(others) - moved


def continuation(model, reasoner, folder):
    """Return the greedy continuation of `BATCH`'s first question by transformers' own `generate`, and its log-probabilities.

    Prompt and pixels are those of the processor in the folder; what a reasoner never samples is suppressed.
    """
    messages, processor = BATCH[0], transformers.AutoProcessor.from_pretrained(folder)
    turns = [{"role": "user", "content": [{"type": "image"}, messages[0]["content"][1]]}]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    size = reasoner.seen(image_of(messages).shape[:2])
    image = Image.fromarray(image_of(messages)).resize(size[::-1], Image.Resampling.BICUBIC)
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    inputs.pop("labels", None)
    forbidden = reasoner.tokens.forbidden.tolist()
    out = model.eval().generate(
        **inputs,
        do_sample=False,
        max_new_tokens=WRITTEN,
        suppress_tokens=forbidden,
        eos_token_id=sorted(reasoner.tokens.end),
        pad_token_id=reasoner.tokens.pad,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = out.sequences[0, inputs["input_ids"].shape[1] :]
    logits = torch.stack([step[0] for step in out.logits]).float().index_fill(-1, reasoner.tokens.forbidden, -torch.inf)
    return ids.tolist(), logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def exported(run, start, to, adapter):
    """Export a run; return the largest difference of a log-probability between medground and plain transformers, or peft.

    The tokens are those that transformers' `generate` writes with the exported model.
    """
    done = export(run, to, adapter=adapter)
    reasoner = medground.load(run).reasoner
    if done.adapter:
        from peft import PeftModel

        base = transformers.AutoModelForImageTextToText.from_pretrained(start)
        model = PeftModel.from_pretrained(base, done.folder)
    else:
        model = transformers.AutoModelForImageTextToText.from_pretrained(done.folder)
    ids, logp = continuation(model, reasoner, done.folder)
    own, _ = reasoner.policy(reasoner.group(BATCH[0], [ids]))
    return float((own[0].detach() - logp).abs().max())
