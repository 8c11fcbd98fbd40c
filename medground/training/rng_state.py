"""The global random generators, as a belt: nothing here draws from them, but a stranger's reward term may."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

GENERATORS = "generators.safetensors"


@contextmanager
def kept_generators() -> Iterator[None]:
    """Whatever happens inside, the global generators go on as if it had not."""
    cpu, python, numbers = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numbers)
        for index, each in enumerate(cuda):
            torch.cuda.set_rng_state(each, index)


def write_generators(folder: Path) -> dict[str, Any]:
    """Write torch's states as a file; return those of Python and NumPy as JSON-ready values."""
    from safetensors.torch import save_file

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{index}": each for index, each in enumerate(torch.cuda.get_rng_state_all())}
    save_file(states, folder / GENERATORS)
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}


def read_generators(folder: Path, kept: dict[str, Any]) -> None:
    """Put every generator back to where it was."""
    from safetensors.torch import load_file

    states = load_file(folder / GENERATORS)
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
    version, internal, gauss = kept["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = kept["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), *rest))
