"""How often a segmenter encodes an image: counted call by call, never timed.

A call encodes if it is given a whole picture (3 channels, not constant) and makes an array of it that is no view of it:
returns it, or leaves it in its object. NumPy's own functions do not count. Two calls are the same if
all they are given is equal. Seen is what runs as Python in the calling thread, the modules of PyTorch included; not compiled
code that takes picture and prompts in one call, nor another thread, process or server.
"""

import inspect
import sys
import zlib
from collections import Counter, UserDict
from collections.abc import Hashable, Iterable, Iterator
from types import CodeType, FrameType, NoneType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

_LEAST_SIDE, _LEAST_SIZE = 8, 64
"""Smallest side of a picture, and smallest size of an array that counts as made of one."""
_PLAIN = (bool, int, float, str, bytes, NoneType)
"""Values that are told apart by what they are; other objects by their identity."""
_RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
Call = tuple[str, Hashable]
"""The name of a function, and what it is given."""
Array = NDArray[Any]


class EncodingCalls:
    """Counts, while it is entered, the calls of this thread that encode a picture.

    Args:
        known: arrays that exist already, by their address; those that are made are added.
    """

    def __init__(self, known: dict[int, Any]) -> None:
        self.known = known
        self.counts: Counter[Call] = Counter()
        self._open: dict[FrameType, tuple[Call, list[Array], Any]] = {}
        """A frame -> its call, the pictures given, and its object."""

    def __enter__(self) -> "EncodingCalls":
        self._before = sys.getprofile()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)

    def repeats(self, *others: "EncodingCalls") -> dict[str, int]:
        """Return function -> how often it encodes the same, callers before those they call.

        A call that others, of other images, do too has no image in it, and is left out.
        """
        most: dict[str, int] = {}
        for call, count in reversed(self.counts.items()):  # a caller returns after those it calls
            if not any(call in other.counts for other in others):
                most[call[0]] = max(count, most.get(call[0], 0))
        return most

    def _event(self, frame: FrameType, event: str, value: Any) -> None:
        if event == "call" and not (frame.f_code.co_flags & _RESUMED or _name(frame).startswith("numpy.")):
            given = _given(frame)
            pictures = [array for item in given.values() for _, array in _arrays(item) if _is_picture(array)]
            if pictures:
                owner = given.get("self")
                self._open[frame] = (_name(frame), _signature(given)), pictures, owner
                self._remember(_held(owner))
        elif event == "return" and frame in self._open:
            call, pictures, owner = self._open.pop(frame)
            results = [*_arrays(value), *_held(owner)]
            if any(
                _address(source) not in self.known
                and array.size >= _LEAST_SIZE
                and not any(np.may_share_memory(array, picture) for picture in pictures)
                for source, array in results
            ):
                self.counts[call] += 1
            self._remember(results)

    def _remember(self, arrays: Iterable[tuple[Any, Array]]) -> None:
        """Keep arrays alive, so that no new one gets the address of an old one."""
        self.known.update((_address(source), source) for source, _ in arrays)


def _given(frame: FrameType) -> dict[str, Any]:
    code: CodeType = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    values = frame.f_locals
    return {name: values[name] for name in code.co_varnames[:count] if name in values}


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"


def _held(owner: Any) -> list[tuple[Any, Array]]:
    try:
        attributes = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return []
    return [pair for value in list(attributes.values()) for pair in _arrays(value)]


def _items(value: Any) -> dict[Any, Any] | None:
    """Return what a dictionary holds, or None for anything else.

    Nothing of the value's own class is called: its object may not be complete yet.
    """
    if issubclass(type(value), UserDict):
        value = object.__getattribute__(value, "__dict__").get("data")
    return dict(dict.items(value)) if issubclass(type(value), dict) else None


def _elements(value: Any) -> tuple[Any, ...] | None:
    """Return what a list or tuple holds, or None for anything else."""
    for kind in (list, tuple):
        if issubclass(type(value), kind):
            return tuple(kind.__iter__(value))
    return None


def _arrays(value: Any) -> Iterator[tuple[Any, Array]]:
    """The arrays and tensors in a value and its containers, each with itself as an array of NumPy."""
    items = _items(value)
    elements = _elements(value) if items is None else items.values()
    if elements is not None:
        for item in elements:
            yield from _arrays(item)
    elif issubclass(type(value), np.ndarray):
        yield value, value
    elif (array := _tensor(value)) is not None:
        yield value, array


def _tensor(value: Any) -> Array | None:
    torch: Any = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)  # none while PyTorch is being imported
    if tensor is None or not issubclass(type(value), tensor):
        return None
    if type(value).__torch_dispatch__ is not tensor.__torch_dispatch__:  # stands for another tensor, has no numbers
        return None
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        return None
    plain = value.detach().cpu()
    odd = plain.is_floating_point() and plain.dtype not in (torch.float16, torch.float32, torch.float64)
    array: Array = (plain.float() if odd else plain).numpy()
    return array


def _address(source: Any) -> int:
    if isinstance(source, np.ndarray):
        return int(source.__array_interface__["data"][0])
    return int(source.data_ptr())


def _is_picture(array: Array) -> bool:
    if not 3 <= array.ndim <= 5 or array.dtype.kind not in "buif":
        return False
    first, middle, last = array.shape[-3:]
    sides = (middle, last) if first == 3 else (first, middle) if last == 3 else (0, 0)
    return min(sides) >= _LEAST_SIDE and bool(array.min() < array.max())


def _signature(value: Any) -> Hashable:
    """What tells one value from another: content of arrays and containers, identity of other objects."""
    items = _items(value)
    if items is not None:
        return tuple((repr(key) if type(key) in _PLAIN else id(key), _signature(item)) for key, item in items.items())
    elements = _elements(value)
    if elements is not None:
        return tuple(map(_signature, elements))
    if type(value) in _PLAIN:
        return cast("Hashable", value)
    array = value if issubclass(type(value), np.ndarray) else _tensor(value)
    return (
        id(value)
        if array is None
        else (array.shape, str(array.dtype), zlib.crc32(np.ascontiguousarray(array).tobytes()))
    )
