"""The state of an engine on disk, in one form for all engines and numbers of ranks: a run saved on two continues on one.

``engine.safetensors``, and ``engine-00001.safetensors`` and so on where it grows large, hold every trained parameter in
float32 as ``parameter/<name>`` and its optimizer state as ``<key>/<name>``, each tensor whole.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medground.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor, nn

PARAMETER = "parameter"
SHARD = 4 * 2**30
"""Bytes after which a new file is begun, so that a large state is never in memory at once."""


def trained_parameters(policy: "nn.Module") -> "dict[str, nn.Parameter]":
    """Return the parameters that an engine trains and saves, by name.

    Raises:
        RunError: if there is none.
    """
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    if not trained:
        raise RunError("the reasoner has no parameter that trains", hint="set reasoner.lora_rank, or freeze less")
    return trained


def write(folder: Path, tensors: "Iterable[tuple[str, Tensor]]") -> None:
    """Write named tensors, one after the other."""
    from safetensors.torch import save_file

    shard: dict[str, Tensor] = {}
    size = shards = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD:
            save_file(shard, folder / _name(shards))
            shard, size, shards = {}, 0, shards + 1
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    save_file(shard, folder / _name(shards))


def read(folder: Path, trained: Iterable[str]) -> "Iterator[tuple[str, str, Tensor]]":
    """Yield (key, parameter's name, tensor) of everything that `write` wrote.

    Args:
        folder: of the checkpoint.
        trained: the names of the parameters that train now.

    Raises:
        RunError: if these are not the parameters that were written.
    """
    from safetensors import safe_open

    names: dict[str, Path] = {}
    for path in sorted(folder.glob("engine*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names |= dict.fromkeys(file.keys(), path)
    saved = {name.removeprefix(f"{PARAMETER}/") for name in names if name.startswith(f"{PARAMETER}/")}
    if odd := sorted(saved ^ set(trained)):
        raise RunError(
            f"the checkpoint was trained on other parameters: {odd[0]} is on one side only",
            hint="resume with the recipe the run was started with",
        )
    for path in dict.fromkeys(names.values()):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                key, _, parameter = name.partition("/")
                yield key, parameter, file.get_tensor(name)


def _name(shard: int) -> str:
    return f"engine-{shard:05d}.safetensors" if shard else "engine.safetensors"
