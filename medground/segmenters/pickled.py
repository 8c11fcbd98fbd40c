"""Tensors of PyTorch's own files (``.pt``, ``.pth``, ``.bin``), read without unpickling: no code of any library is called.

Such a file is a pickle, a program for a stack machine, and the bytes of its tensors. `torch.load` with ``weights_only`` limits
which functions that program calls, yet a few hundred bytes can make it hang or fill the memory. Here the program is
interpreted: it builds dictionaries, lists, numbers and descriptions of tensors, each checked against the size of the file, and
only the tensors that are asked for are read.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from medground.errors import InputError
from medground.segmenters.weight_files import AGAIN, MOST_HEADER, check_file, check_shapes, open_archive

if TYPE_CHECKING:
    import torch

Content = Any
"""What a pickle describes: dictionaries, lists, tuples, numbers, text, and a `StoredTensor` for every tensor."""
DTYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
"""The dtype of each of PyTorch's typed storages, ``FloatStorage`` and so on."""
BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}
"""Of one element, where it is not one."""
INERT = ("torch.optim.", "collections.", "builtins.dict", "builtins.set", "torch.device")
"""What a file may name that is no tensor: it stands beside the weights, and becomes an empty dictionary."""
MOST_STEPS = 500_000
"""Instructions of one file; a tensor takes about 30."""
MAGIC = 0x1950A86A20F9469CFC6C
"""The first number of a file that PyTorch wrote before its version 1.6."""
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of elements in a file."""

    dtype: str
    key: str
    elements: int

    @property
    def bytes(self) -> int:
        """Its length in bytes."""
        return self.elements * BYTES.get(self.dtype, 1)


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor in a file: which elements of a storage it has, in units of elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what reaches outside its storage or repeats elements of it."""
        counts = (self.offset, *self.shape, *self.strides)
        counted = len(counts) < 40 and all(type(count) is int and count >= 0 for count in counts)
        if not counted or len(self.shape) != len(self.strides):
            raise ValueError(f"a tensor has the shape {str(self.shape)[:80]} with the strides {str(self.strides)[:80]}")
        elements = math.prod(self.shape)
        last = sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if elements and (elements > self.storage.elements or self.offset + last >= self.storage.elements):
            raise ValueError(f"a tensor of {elements:,} elements is stored as {self.storage.elements:,}")


class _Name(str):
    """A class or function that a file names; it is never looked up."""

    __slots__ = ()


class PickledFile:
    """A file of PyTorch, opened: its content with a `StoredTensor` for every tensor.

    Args:
        path: the file.

    Raises:
        InputError: if it is damaged, of another kind, or holds objects that are neither tensors nor plain data.
    """

    def __init__(self, path: Path) -> None:
        self._zipped = check_file(path).startswith(b"PK")
        self.path, self.size = path, path.stat().st_size
        self._offsets: dict[str, int] = {}
        with self._refusing():
            self.content: Content = self._archived() if self._zipped else self._legacy()

    def read(self, wanted: Mapping[str, StoredTensor]) -> "dict[str, torch.Tensor]":
        """Return tensors on the CPU; storages that nobody wants are not read.

        Raises:
            InputError: if their bytes are damaged, or they take more memory than four times the file.
        """
        check_shapes({name: tensor.shape for name, tensor in wanted.items()}, self.size, self.path)
        if sum(math.prod(tensor.shape) for tensor in wanted.values()) > 4 * self.size:
            raise self._damaged(ValueError("its tensors overlap"))
        with self._refusing():
            return self._tensors(wanted)

    def _tensors(self, wanted: Mapping[str, StoredTensor]) -> "dict[str, torch.Tensor]":
        import torch

        stored = {tensor.storage.key: tensor.storage for tensor in wanted.values()}
        archive = open_archive(self.path) if self._zipped else None
        with archive or self.path.open("rb") as source:
            flat = {
                key: torch.frombuffer(self._bytes(source, storage), dtype=getattr(torch, storage.dtype))
                if storage.elements
                else torch.empty(0, dtype=getattr(torch, storage.dtype))
                for key, storage in stored.items()
            }
        return {
            name: flat[tensor.storage.key].as_strided(tensor.shape, tensor.strides, tensor.offset)
            for name, tensor in wanted.items()
        }

    def _bytes(self, source: zipfile.ZipFile | io.BufferedReader, storage: Storage) -> bytearray:
        content = bytearray(storage.bytes)
        if isinstance(source, zipfile.ZipFile):
            with source.open(f"{self._folder}/data/{storage.key}") as record:
                count = record.readinto(content)  # type: ignore[attr-defined]  # typeshed gives it a wider type
        else:
            source.seek(self._offsets[storage.key])
            count = source.readinto(content)
        if count < storage.bytes:
            raise ValueError(f"a storage has {count:,} of {storage.bytes:,} bytes")
        return content

    def _archived(self) -> Content:
        with open_archive(self.path) as archive:
            programs = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            folders = {name.removesuffix("/data.pkl") for name in programs}
            if len(folders) != 1 or any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError("it is an archive of another kind, such as TorchScript")
            (self._folder,) = folders
            order = f"{self._folder}/byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise ValueError("its byte order is not little")
            if archive.getinfo(programs[0]).file_size > MOST_HEADER:
                raise ValueError(f"{programs[0]} is longer than {MOST_HEADER:,} bytes")
            return _interpret(io.BytesIO(archive.read(programs[0])), self.size, {})

    def _legacy(self) -> Content:
        with self.path.open("rb") as file:
            storages: dict[str, Storage] = {}
            magic, _protocol, _system, content, keys = (_interpret(file, self.size, storages) for _ in range(5))
            if magic != MAGIC:
                raise ValueError("it does not begin as a file of PyTorch does")
            for key in keys:
                self._offsets[key] = file.tell() + 8
                file.seek(8 + storages[key].bytes, 1)
            if file.tell() > self.size:
                raise ValueError(f"{self.size:,} of {file.tell():,} bytes are here")
        return content

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise self._damaged(error) from error
        except _Foreign as error:
            raise InputError(
                f"{self.path.name} holds the object {error} besides tensors, and is not opened",
                hint="only weights are read; save its state dict alone, or as safetensors",
            ) from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def _damaged(self, error: Exception) -> InputError:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        return InputError(f"{self.path.name} is damaged, truncated or no PyTorch checkpoint: {reason}", hint=AGAIN)


class _Foreign(Exception):
    """A class or function that is not needed to describe tensors."""


def _interpret(program: BinaryIO, size: int, storages: dict[str, Storage]) -> Content:
    """Return what a pickle describes, up to its STOP; `size` bounds its storages, which `storages` collects by key."""
    stack: list[Content] = []
    marks: list[list[Content]] = []
    memo: dict[int, Content] = {}
    argument: Content
    for step, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        if step > MOST_STEPS:
            raise ValueError(f"it takes more than {MOST_STEPS:,} steps to read")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(stack)
                stack = []
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE" | "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_fresh(opcode.name))
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "SHORT_BINSTRING" | "BINSTRING" | "SHORT_BINBYTES" | "BINBYTES":
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_name(*argument.split(" ")))
            case "STACK_GLOBAL":
                stack[-2:] = [_name(*stack[-2:])]
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                items, stack = stack, marks.pop()
                stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items, stack = stack, marks.pop()
                stack[-1].extend(items)
            case "SETITEM":
                key, value = stack[-2:]
                del stack[-2:]
                _set(stack[-1], [key, value])
            case "SETITEMS":
                items, stack = stack, marks.pop()
                _set(stack[-1], items)
            case "BINPERSID":
                stack[-1] = _storage(stack[-1], size, storages)
            case "REDUCE" | "NEWOBJ":
                function, arguments = stack[-2:]
                stack[-2:] = [_call(function, arguments)]
            case "BUILD":
                stack.pop()  # attributes of a dictionary or of what is inert
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(f"it has the instruction {name}, which no dictionary of tensors needs")
    raise ValueError("it has no end")


def _fresh(instruction: str) -> Content:
    constants = {"EMPTY_TUPLE": (), "NONE": None, "NEWTRUE": True, "NEWFALSE": False}
    return constants.get(instruction, {} if instruction == "EMPTY_DICT" else [])


def _name(module: str, name: str) -> _Name:
    full = _Name(f"{module.replace('__builtin__', 'builtins')}.{name}")
    tensors = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.Size")
    storage = module in ("torch", "torch.cuda") and name.removesuffix("Storage") in DTYPES
    dtype = module == "torch" and name in DTYPES.values()
    if not (full in tensors or storage or dtype or full.startswith(INERT)):
        raise _Foreign(full)
    return full


def _set(target: Content, items: list[Content]) -> None:
    """Put key, value, key, value, ... into a dictionary; the hash of a key takes one step."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(target, dict) or not isinstance(key, str | int | float | StoredTensor | None):
            raise TypeError(f"it sets an item of a {type(target).__name__} under a {type(key).__name__}")
        target[key] = value


def _storage(identity: Content, size: int, storages: dict[str, Storage]) -> Storage:
    kind, storage_type, key, _, elements = identity[:5]
    if kind != "storage" or any(view is not None for view in identity[5:]):
        raise ValueError(f"it refers to {str(kind)[:40]!r} outside")
    storage = Storage(DTYPES[storage_type.rpartition(".")[2].removesuffix("Storage")], str(key), int(elements))
    if not 0 <= storage.bytes <= size:
        raise ValueError(f"a storage of {storage.bytes:,} bytes does not fit into {size:,}")
    known = storages.setdefault(storage.key, storage)
    if (known.dtype, known.elements) != (storage.dtype, storage.elements):
        raise ValueError(f"the storage {storage.key} is two things")
    return known


def _call(function: Content, arguments: Content) -> Content:
    if not isinstance(function, _Name):
        raise TypeError(f"it calls a {type(function).__name__}")
    match str(function), arguments:
        case "torch._utils._rebuild_tensor_v2", (
            Storage() as storage,
            offset,
            tuple() as shape,
            tuple() as strides,
            *_,
        ):
            return StoredTensor(storage, offset, shape, strides)
        case "torch._utils._rebuild_parameter", (StoredTensor() as tensor, *_):
            return tensor
        case "torch.Size", (tuple() | list() as shape,):
            return tuple(shape)
        case "collections.OrderedDict", ([*pairs],):
            ordered: dict[Content, Content] = {}
            for pair in pairs:
                _set(ordered, list(pair))
            return ordered
        case _ if function.startswith(INERT):
            return {}
    raise TypeError(f"it calls {function} with other arguments than a tensor has")
