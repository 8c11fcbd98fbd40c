"""The memory that parameters, gradients and the optimizer take in training: arithmetic, checked against tensors in tests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBytes:
    """Bytes per process, activations and the sampler's cache not counted."""

    weights: float
    gradients: float
    optimizer: float
    """AdamW's two moments in float32, and the float32 parameters it works on where the weights are not that themselves."""
    host: float = 0.0
    """Of the optimizer, where it is offloaded: in the machine's memory instead of the device's."""

    @property
    def device(self) -> float:
        """All of it that is on the device."""
        return self.weights + self.gradients + self.optimizer


def state_bytes(
    parameters: int, trained: int, *, width: int = 2, ranks: int = 1, zero_stage: int = 0, offload: bool = False
) -> StateBytes:
    """Return what one process holds.

    >>> state_bytes(8_290_000_000, 7_610_000_000, ranks=8, zero_stage=3).device / 1e9
    15.39

    Args:
        parameters: of the whole model.
        trained: of these, how many train; with LoRA those of the adapter.
        width: bytes of a weight: 2 for bfloat16, 4 for float32.
        ranks: how many processes share.
        zero_stage: ZeRO's: 0 shares nothing, 1 the optimizer's state, 2 the gradients too, 3 the weights too.
        offload: whether the optimizer's state is in the host's memory.
    """
    master = 0 if zero_stage == 0 and width == 4 else 4
    optimizer = trained * (8 + master) / (ranks if zero_stage >= 1 else 1)
    return StateBytes(
        weights=parameters * width / (ranks if zero_stage >= 3 else 1),
        gradients=trained * width / (ranks if zero_stage >= 2 else 1),
        optimizer=0.0 if offload else optimizer,
        host=optimizer if offload else 0.0,
    )
