"""A reward for letters in the completion; its `call`-th call in process `rank` of `ranks` sends that process a signal."""

import os
import signal

from medground.hookspecs import hookimpl
from medground.types import RewardResult


class Letters:
    needs_mask = False
    in_process = True  # it counts its calls
    range = (0.0, 1.0)

    def __init__(
        self,
        *,
        letters: str = "aeiouAEIOU0123456789",
        rank: int = 1,
        ranks: int = 2,
        call: int = 0,
        sends: str = "SIGKILL",
    ):
        self.letters, self.sends = letters, signal.Signals[sends]
        here = (os.environ.get("RANK"), os.environ.get("WORLD_SIZE")) == (str(rank), str(ranks))
        self.left = call if here else 0

    def __call__(self, rollout):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.sends)
        text = rollout.completion.text
        return RewardResult(sum(letter in self.letters for letter in text) / max(1, len(text)))


@hookimpl
def register_rewards(register):
    register("letters", Letters)
