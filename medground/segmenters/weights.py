"""Reading published weights: safetensors, or .pt / .pth files of tensors only. Nothing read here runs code.

torch and safetensors are imported when a function is called, never by importing this module.
"""

import difflib
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medground.devices import device_of, dtype_of
from medground.errors import InputError, RecipeError

if TYPE_CHECKING:
    import torch

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training code stores the weights of a checkpoint."""
OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "Adagrad", "Adadelta", "NAdam", "RAdam", "RMSprop")
"""torch.optim classes whose pickled objects are passed over where training code left them beside the weights."""
POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that git-LFS has not replaced by its content."""
LONGEST_HEADER = 100_000_000
"""Bytes; what safetensors itself reads at most."""
_UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError)


class NotFetched(InputError):
    """A hub id names weights that are not in the local hub cache."""


def find_weights(checkpoint: str | Path) -> Path:
    """Return where a checkpoint lies: a file, a folder, or a hub id ``owner/name[/file][@revision]`` in the local cache.

    Nothing is downloaded.

    Raises:
        InputError: if there is no such file.
        NotFetched: if it can only be a hub id, and the hub's cache does not hold it.
    """
    path = Path(checkpoint).expanduser()
    if path.exists():
        return path
    name, _, revision = str(checkpoint).partition("@")
    levels = name.split("/")
    if not name.startswith(("/", ".", "~")) and len(levels) >= 2 and all(levels):
        cached = _in_cache("/".join(levels[:2]), "/".join(levels[2:]), revision or None)
        if cached is not None:
            return cached
        hint = "medground fetch RECIPE downloads what a recipe names; nothing is downloaded silently"
        raise NotFetched(f"{checkpoint} is neither a file here nor a model in the local hub cache", hint=hint)
    raise InputError(f"the checkpoint {path} does not exist", hint=_beside(path))


def _beside(path: Path) -> str:
    """Return a remedy for a path that does not exist."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    close = difflib.get_close_matches(path.name, [item.name for item in path.parent.iterdir()], n=1)
    return f"did you mean {close[0]!r}?" if close else f"see what there is: ls {path.parent}"


def _in_cache(repository: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        if file:  # the rest of the repository need not be here
            cached = try_to_load_from_cache(repository, file, revision=revision)
            return Path(cached) if isinstance(cached, str) else None
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def check_whole(path: Path) -> None:
    """Stop at weights that are a git-LFS pointer or shorter than they say; reads headers only, without torch.

    Args:
        path: a weights file, or a folder with safetensors files.

    Raises:
        InputError: naming the file.
    """
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        try:
            _check_header(file)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        begin = file.read(len(POINTER))
        if begin == POINTER:
            raise InputError(
                f"{path} is a git-LFS pointer, a text that stands for the weights",
                hint=f"git -C {path.parent} lfs pull",
            )
        size = path.stat().st_size
        if path.suffix == ".safetensors" and (promised := _promised(begin, file.read)) and size < promised:
            raise InputError(
                f"{path} is truncated: {size:,} of at least {promised:,} bytes are here", hint="copy or fetch it again"
            )
    if begin.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise InputError(f"{path} is truncated: {size:,} bytes, and the end is missing", hint="copy or fetch it again")


def _promised(begin: bytes, read: Callable[[int], bytes]) -> int:
    """The least a safetensors file holds by its own header, bytes; 0 where the header is none, which its reader says."""
    if len(begin) < 8:
        return 8
    length = int.from_bytes(begin[:8], "little")
    if length > LONGEST_HEADER:
        return 0
    text = begin[8:] + read(max(0, length + 8 - len(begin)))
    if len(text) < length:
        return length + 8
    try:
        header = json.loads(text[:length])
        return (
            8
            + length
            + max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        return 0


def read_weights(path: Path) -> "dict[str, torch.Tensor]":
    """Return the tensors of a checkpoint file or of a Hugging Face folder, on the CPU, by name.

    Takes the weights out of a wrapper like ``{"model": ..., "optimizer": ...}`` and strips the ``module.`` that
    data-parallel training puts before names.

    Raises:
        InputError: if the file is damaged, of another kind, or holds objects that are not weights.
    """
    check_whole(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _unwrap(_read_pickle(path), path)


def _read_folder(folder: Path) -> "dict[str, torch.Tensor]":
    whole = folder / "model.safetensors"
    shards = [whole] if whole.exists() else sorted(folder.glob("model-*-of-*.safetensors"))
    if shards:
        return {key: tensor for shard in shards for key, tensor in _read_safetensors(shard).items()}
    raise InputError(
        f"the folder {folder} holds no model.safetensors",
        hint="name the weights file itself if it is a .pt or .pth",
    )


def _read_safetensors(path: Path) -> "dict[str, torch.Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, struct.error) as error:
        raise InputError(f"{path.name} is not a readable safetensors file: {error}", hint="fetch it again") from error


def _read_pickle(path: Path) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except _UNREADABLE as error:
        text = str(error)
        if "Unsupported global" in text or "WeightsUnpickler" in text or "Unsupported operand" in text:
            named = text.partition("GLOBAL ")[2].split(" ")[0]
            what = f"the object {named}" if named else "objects"
            raise InputError(
                f"{path.name} holds {what} besides tensors, or is no checkpoint, and is not opened",
                hint="only weights are read; save its state dict alone, or as safetensors",
            ) from error
        raise InputError(
            f"{path.name} is damaged, truncated or no PyTorch checkpoint: {(text.splitlines() or ['unreadable'])[0]}",
            hint="compare its size and hash with the published file, and fetch it again",
        ) from error


class _Discarded:
    """Stands in for a pickled optimiser, whose own code need not run to be thrown away."""

    def __setstate__(self, state: Any) -> None:
        pass


def _allowed() -> list[Any]:
    """Exactly what a file may name beyond torch's own list: the optimisers, and the dictionaries their state uses."""
    import torch

    classes = [getattr(torch.optim, name) for name in OPTIMIZERS]
    return [
        *((_Discarded, f"{owner.__module__}.{owner.__qualname__}") for owner in classes),
        (_plain, "collections.defaultdict"),  # torch fills plain and ordered dictionaries only
        dict,
    ]


def _plain(factory: Any = None) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _unwrap(loaded: Any, path: Path) -> "dict[str, torch.Tensor]":
    import torch

    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise InputError(f"{path.name} holds a {type(loaded).__name__}, not a dictionary of weights")
    strange = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise InputError(f"{path.name} is not a dictionary of weights: no tensors under {_some(strange)}")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def load_strictly(model: "torch.nn.Module", weights: "Mapping[str, torch.Tensor]", source: str) -> None:
    """Copy `weights` into `model`; every name and shape must agree.

    Args:
        model: receives them.
        weights: by the names of ``model.state_dict()``.
        source: what the error calls them, for example a file name.

    Raises:
        InputError: naming what is missing, extra or of another shape.
    """
    expected = model.state_dict()
    check_keys({key: tuple(value.shape) for key, value in expected.items()}, weights, source)
    model.load_state_dict(dict(weights), strict=True)


def check_keys(expected: Mapping[str, Sequence[int]], weights: "Mapping[str, torch.Tensor]", source: str) -> None:
    """Stop with one sentence unless `weights` has exactly the `expected` names and shapes.

    Raises:
        InputError: naming what is missing, extra or of another shape.
    """
    shapes = {
        f"{key} ({'x'.join(map(str, weights[key].shape))}, expected {'x'.join(map(str, shape))})"
        for key, shape in expected.items()
        if key in weights and tuple(weights[key].shape) != tuple(shape)
    }
    differences = [
        f"{len(names)} {what}: {_some(sorted(names))}"
        for what, names in (
            ("missing", expected.keys() - weights.keys()),
            ("unexpected", weights.keys() - expected.keys()),
            ("of another shape", shapes),
        )
        if names
    ]
    if differences:
        raise InputError(f"the weights in {source} do not fit the model: {'; '.join(differences)}")


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def frozen(model: "torch.nn.Module", *, device: str, dtype: str) -> "torch.nn.Module":
    """Return the model in evaluation mode on a device, in a dtype, none of its parameters trainable.

    Raises:
        RecipeError: if there is no such floating-point dtype, or no such device here.
    """
    wanted, where = dtype_of(dtype), device_of(device)
    try:
        return model.eval().requires_grad_(False).to(device=where, dtype=wanted)
    except (RuntimeError, AssertionError) as error:
        cause = (str(error).splitlines() or [""])[0]
        raise RecipeError(f"the device {device!r} cannot be used: {cause}", hint="write device: cpu") from error
