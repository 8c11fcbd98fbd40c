"""What training is put to trial with: a reward that random letters earn, and models whose numbers go wrong on demand."""

from medground.hookspecs import hookimpl
from medground.types import RewardResult


class Letters:
    """The share of a completion's characters that are in `letters`; `bad` calls, counted from 1, give `value`."""

    needs_mask = False
    range = (0.0, 1.0)
    in_process = True  # it counts its calls

    def __init__(self, *, letters: str = "aeiouAEIOU0123456789", bad: tuple = (), value: str = "nan", dull: int = 0):
        self.letters, self.bad, self.value, self.dull = letters, set(bad), float(value), dull
        self.calls = 0

    def __call__(self, rollout):
        self.calls += 1
        if self.calls in self.bad:
            return RewardResult(self.value)
        text = rollout.completion.text
        if self.calls <= self.dull:
            return RewardResult(0.0)
        return RewardResult(sum(letter in self.letters for letter in text) / max(1, len(text)))


class Token:
    """The share of a completion's tokens that are `token`."""

    needs_mask = False
    range = (0.0, 1.0)

    def __init__(self, *, token: int):
        self.token = token

    def __call__(self, rollout):
        return RewardResult(float((rollout.completion.token_ids == self.token).mean()))


def trial_vlm(*, checkpoint: str, bad: tuple = (), where: str = "loss", value: str = "nan", **arguments):
    """A tiny Qwen3-VL. In its `bad` differentiated passes, counted from 1, log-probabilities or gradients are `value`."""
    import torch
    from medground_qwen.factories import qwen3_vl

    reasoner = qwen3_vl(checkpoint=checkpoint, dtype="float32", device="cpu", **arguments)
    passes = []

    def poison(module, given, out):
        logp, entropy = out
        if not logp.requires_grad:
            return None
        passes.append(None)
        if len(passes) not in bad:
            return None
        if where == "loss":
            return logp * float(value), entropy
        logp.register_hook(lambda gradient: torch.full_like(gradient, float(value)))
        return None

    reasoner.policy.register_forward_hook(poison)
    return reasoner


@hookimpl
def register_rewards(register):
    register("letters", Letters)
    register("token", Token)


@hookimpl
def register_reasoners(register):
    register("trial_vlm", trial_vlm)
