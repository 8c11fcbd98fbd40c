"""Reading published weights: safetensors, or .pt / .pth files of tensors only. Nothing read here runs code.

torch and safetensors are imported when a function is called, never by importing this module.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medground.devices import device_of, dtype_of
from medground.errors import InputError, RecipeError
from medground.segmenters.pickled import Content, PickledFile, StoredTensor
from medground.segmenters.weight_files import check_file, open_archive, read_header

if TYPE_CHECKING:
    import torch

WRAPPERS = frozenset({"state_dict", "model", "model_state_dict", "module", "checkpoint"})
"""Keys under which training code stores the weights of a checkpoint, one in another."""
WRAPPING = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"})
"""Parts of names that data-parallel training, torch.compile, FSDP, Lightning and activation checkpointing put in."""
ALONE = "save its state dict alone, as safetensors"


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
    try:
        if path.exists():
            return path
    except OSError as error:
        raise InputError(f"{str(path)[:200]} cannot be read: {error.strerror}", hint="check the path") from error
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
    """Stop at weights that are no regular file, a git-LFS pointer or shorter than they say; reads headers only, without torch.

    Args:
        path: a weights file, or a folder with safetensors files.

    Raises:
        InputError: naming the file.
    """
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        begin = check_file(file)
        if file.suffix == ".safetensors":
            read_header(file)
        elif begin.startswith(b"PK"):
            open_archive(file).close()


def read_weights(path: Path, roots: Sequence[str] = ()) -> "dict[str, torch.Tensor]":
    """Return the tensors of a checkpoint file or of a Hugging Face folder, on the CPU, by name.

    The same wrappers are taken off in every format: dictionaries around the weights (`WRAPPERS`, one in another too), the
    parts of names that training puts there (`WRAPPING`), and, where `roots` says how the model's own names begin, what stands
    before them: Lightning's ``model.`` or ``sam.``.

    Args:
        path: a safetensors file, a ``.pt``, ``.pth`` or ``.bin`` file, or a folder with ``model.safetensors`` or its shards.
        roots: first parts of the model's names, for example ``image_encoder``; one of them is in every checkpoint of it.

    Raises:
        InputError: if the file is damaged, of another kind, or holds objects that are not weights.
    """
    check_whole(path)
    if path.suffix == ".safetensors" or path.is_dir():
        tensors = _read_safetensors(_shards(path) if path.is_dir() else [path])
        return {new: tensors[name] for name, new in _own_names(tensors, roots, path.name).items()}
    file = PickledFile(path)
    stored = _without_wrappers(file.content, path.name)
    return file.read({new: stored[name] for name, new in _own_names(stored, roots, path.name).items()})


def _shards(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    shards = [whole] if whole.exists() else sorted(folder.glob("model-*-of-*.safetensors"))
    if not shards:
        raise InputError(
            f"the folder {folder} holds no model.safetensors",
            hint="name the weights file itself if it is a .pt or .pth",
        )
    return shards


def _read_safetensors(paths: Sequence[Path]) -> "dict[str, torch.Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            shard = load_file(path)
        except (SafetensorError, OSError, ValueError, LookupError, RuntimeError) as error:
            raise InputError(
                f"{path.name} is not a readable safetensors file: {error}", hint="fetch it again"
            ) from error
        if twice := sorted(shard.keys() & tensors.keys()):
            raise InputError(
                f"{path.name} holds tensors that another shard holds too: {some(twice)}", hint="fetch it again"
            )
        tensors |= shard
    return tensors


def _without_wrappers(content: Content, source: str) -> dict[str, StoredTensor]:
    """Return the dictionary of weights in what a file holds."""
    inside = dict(_dictionaries(content))
    if len(inside) > 1:
        raise InputError(f"{source} holds more than one model, under {some(sorted(inside))}", hint=ALONE)
    weights = next(iter(inside.values()), content)
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{source} holds a {type(weights).__name__}, not a dictionary of weights", hint=ALONE)
    strange = [str(key) for key, value in weights.items() if not isinstance(value, StoredTensor)]
    if strange:
        raise InputError(
            f"{source} is no dictionary of weights: it holds {holdings(weights)}, and no tensors under {some(strange)}",
            hint=ALONE,
        )
    return {str(key): value for key, value in weights.items()}


def _dictionaries(content: Content, path: str = "", depth: int = 4) -> Iterator[tuple[str, dict[Content, Content]]]:
    """Yield the dictionaries with tensors that lie under known wrappers, and under which."""
    if isinstance(content, dict) and any(isinstance(value, StoredTensor) for value in content.values()):
        yield path, content
    elif isinstance(content, dict) and depth:
        for key in WRAPPERS & content.keys():
            yield from _dictionaries(content[key], f"{path}.{key}" if path else key, depth - 1)


def _own_names(names: Iterable[str], roots: Sequence[str], source: str) -> dict[str, str]:
    """Return the name that the model has for each name in a file."""
    plain = {name: ".".join(part for part in name.split(".") if part not in WRAPPING) for name in names}
    before = {
        f".{name}"[:start].removeprefix(".")
        for name in plain.values()
        for root in roots
        if (start := f".{name}".find(f".{root}.")) >= 0
    }
    if len(before) > 1 and "" not in before:
        raise InputError(
            f"{source} holds more than one model, under {some(sorted(before))}", hint="save the state dict of one alone"
        )
    prefix = f"{before.pop()}." if len(before) == 1 else ""
    own = {name: text.removeprefix(prefix.removeprefix(".")) for name, text in plain.items()}
    if len(set(own.values())) < len(own):
        raise InputError(
            f"{source} holds two tensors of one name once {some(sorted(WRAPPING))} are left out", hint=ALONE
        )
    return own


def holdings(names: Collection[str]) -> str:
    """Return how many names there are, and the first.

    >>> holdings(["net.a", "net.b", "net.c", "net.d"])
    '4 names, such as net.a, net.b, net.c'
    >>> holdings([])
    'no names'
    """
    if not names:
        return "no names"
    return f"{len(names)} names, such as {', '.join(str(name)[:80] for name in sorted(map(str, names))[:3])}"


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
    """Stop with one sentence unless `weights` has exactly the `expected` names and shapes, and finite numbers.

    Raises:
        InputError: naming what is missing, extra, of another shape, or not finite.
    """
    shapes = {
        f"{key} ({'x'.join(map(str, weights[key].shape))}, expected {'x'.join(map(str, shape))})"
        for key, shape in expected.items()
        if key in weights and tuple(weights[key].shape) != tuple(shape)
    }
    differences = [
        f"{len(names)} {what}: {some(sorted(names))}"
        for what, names in (
            ("missing", expected.keys() - weights.keys()),
            ("unexpected", weights.keys() - expected.keys()),
            ("of another shape", shapes),
        )
        if names
    ]
    if differences:
        raise InputError(
            f"the weights in {source} do not fit the model: {'; '.join(differences)}; the file holds {holdings(weights)}",
            hint=_remedy(expected, weights),
        )
    check_finite(weights.items(), source)


def _remedy(expected: Collection[str], names: Collection[str]) -> str:
    """Return what to do about names that do not fit: they may be the model's own behind one prefix."""
    first = next(iter(names), "")
    for prefix in (first.removesuffix(name) for name in expected if first.endswith(f".{name}")):
        if all(name.startswith(prefix) and name.removeprefix(prefix) in expected for name in names):
            return f"every name begins with {prefix!r}: save that part alone, MODEL.{prefix}save_pretrained('FOLDER')"
    return "give the released file; medground fetch RECIPE downloads what a recipe names"


def check_finite(weights: "Iterable[tuple[str, torch.Tensor]]", source: str) -> None:
    """Stop at weights that are NaN or infinite.

    Raises:
        InputError: naming the first of them.
    """
    import torch

    names = []
    for name, tensor in weights:
        if tensor.is_floating_point() and tensor.numel():
            ends = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())  # NaN where there is one
            if not torch.stack(ends).isfinite().all():
                names.append(name)
    if names:
        raise InputError(
            f"{source} holds NaN or infinity in {len(names)} tensors: {some(names)}", hint="fetch it again"
        )


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:120] for name in names[:most]) + more


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
