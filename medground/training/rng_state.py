"""Save and restore the global RNG states, in case a third-party reward uses them: nothing here does."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

GENERATORS = "generators.safetensors"


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore the global RNG states on the way out."""
    cpu, python, numbers = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numbers)
        for index, state in enumerate(cuda):
            torch.cuda.set_rng_state(state, index)


def write_rng(folder: Path) -> dict[str, Any]:
    """Write torch's states as a file; return those of Python and NumPy as JSON-ready values."""
    from safetensors.torch import save_file

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    save_file(states, folder / GENERATORS)
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}


def read_rng(folder: Path, written: dict[str, Any]) -> None:
    """Restore the states that `write_rng` wrote and returned."""
    from safetensors.torch import load_file

    states = load_file(folder / GENERATORS)
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
    version, internal, gauss = written["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = written["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), *rest))
