"""The soft overlong punishment of DAPO: a reward term that training adds to the rubric where a recipe asks for it."""

from medground.types import RewardResult, Rollout


class SoftOverlong:
    """Punish completions near the length limit (DAPO, arXiv 2503.14476, equation 13).

    0 up to ``limit - buffer`` tokens, then falling linearly to -1 at the limit. It abstains where a completion has no tokens.

    >>> SoftOverlong(20, 4)
    SoftOverlong(20, 4)

    Args:
        limit: the most tokens of a completion, its end token included.
        buffer: tokens before the limit in which the punishment grows.
    """

    needs_mask = False
    range = (-1.0, 0.0)
    in_process = True

    def __init__(self, limit: int, buffer: int) -> None:
        self.limit, self.buffer = limit, buffer

    def __repr__(self) -> str:
        return f"SoftOverlong({self.limit}, {self.buffer})"

    def __call__(self, rollout: Rollout) -> RewardResult:
        """See `Reward`."""
        if rollout.completion.token_ids is None:
            return RewardResult(None, {"undefined": "the completion has no tokens"})
        beyond = len(rollout.completion.token_ids) - (self.limit - self.buffer)
        return RewardResult(-min(1.0, max(0.0, beyond / self.buffer)))
