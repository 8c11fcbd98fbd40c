"""What training holds in memory before the first token: arithmetic, checked against tensors in the tests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Bytes per process, activations and the sampler's cache not counted."""

    weights: float
    gradients: float
    optimizer: float
    """AdamW's two moments in float32, and the float32 parameters it works on where the weights are not that themselves."""
    host: float = 0.0
    """Of the optimiser, where it is offloaded: in the machine's memory instead of the device's."""

    @property
    def device(self) -> float:
        """All of it that lies on the device."""
        return self.weights + self.gradients + self.optimizer


def held(
    parameters: int, trained: int, *, width: int = 2, ranks: int = 1, stage: int = 0, offload: bool = False
) -> Held:
    """What one process holds.

    >>> held(8_290_000_000, 7_610_000_000, ranks=8, stage=3).device / 1e9
    15.39

    Args:
        parameters: of the whole model.
        trained: of these, how many train; with LoRA those of the adapter.
        width: bytes of a weight: 2 for bfloat16, 4 for float32.
        ranks: how many processes share.
        stage: ZeRO's: 0 shares nothing, 1 the optimiser's state, 2 the gradients too, 3 the weights too.
        offload: whether the optimiser's state lies in the host's memory.
    """
    master = 0 if stage == 0 and width == 4 else 4
    optimizer = trained * (8 + master) / (ranks if stage >= 1 else 1)
    return Held(
        weights=parameters * width / (ranks if stage >= 3 else 1),
        gradients=trained * width / (ranks if stage >= 2 else 1),
        optimizer=0.0 if offload else optimizer,
        host=optimizer if offload else 0.0,
    )
