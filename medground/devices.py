"""Devices, number types and installed modules: check what a component needs before it loads anything.

torch is imported where it alone knows the answer, never by importing this module.
"""

import importlib.util
import os
import re
from typing import TYPE_CHECKING, Annotated, Literal

from medground.arguments import Objection
from medground.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
"""The words for devices; ``cuda:1`` and its like say which of several."""
DTYPES = ("float32", "bfloat16", "float16")
_MEANT = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps"}


class _DeviceWord:
    """The `medground.arguments.Rule` of device words."""

    def __repr__(self) -> str:
        return "a device word"

    def __str__(self) -> str:
        return "for a device"

    def objection(self, value: str) -> Objection | None:
        """Why there can be no such device on any machine, or None."""
        if value in DEVICES or re.fullmatch(r"cuda:\d+", value):
            return None
        word = value.lower().partition(":")[0]
        meant = f"did you mean {_MEANT[word]!r}?" if word in _MEANT else did_you_mean(value, (*DEVICES, "cuda:0"))
        return Objection(f"{value!r} is no device", meant)


Device = Annotated[str, _DeviceWord()]
"""``auto`` (CUDA if torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` and so on, ``mps``."""
Dtype = Literal["float32", "bfloat16", "float16"]


def device_of(word: str) -> str:
    """The device that `word` means on this machine: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        RecipeError: if there is no such device; a wrong word is refused without torch.
    """
    if wrong := _DeviceWord().objection(word):
        raise RecipeError(wrong.what, hint=wrong.hint)
    if word == "cpu":
        return word
    import torch

    if word == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if word == "mps":
        missing = "" if torch.backends.mps.is_available() else "this machine has no device of Apple's Metal"
    else:
        missing = _no_cuda(int(word.partition(":")[2] or 0))
    if missing:
        raise RecipeError(f"{word} is not available: {missing}", hint="write device: auto, or device: cpu")
    return word


def _no_cuda(index: int) -> str:
    """Why there is no CUDA device of this index; "" where there is."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index < count:
        return ""
    built = "" if torch.version.cuda or torch.version.hip else f", and torch {torch.__version__} is built without CUDA"
    return f"this machine has {count} CUDA device{'s' * (count != 1)}{built}"


def check_dtype(name: str) -> None:
    """Stop at a word that is no dtype for weights; imports no torch.

    Raises:
        RecipeError: if it is not float32, bfloat16 or float16.
    """
    if name not in DTYPES:
        raise RecipeError(f"there is no dtype {name!r}", hint=did_you_mean(name, DTYPES))


def dtype_of(name: str) -> "torch.dtype":
    """The torch dtype called `name`: float32, bfloat16 or float16.

    Raises:
        RecipeError: if it is none of these.
    """
    check_dtype(name)
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def require_modules(*modules: str) -> None:
    """Stop where a module is not installed, without importing any of them.

    Raises:
        ModuleNotFoundError: naming the first; `medground.build` says which command installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def declare_no_accelerator() -> None:
    """Tell DeepSpeed, before it is imported, that it computes on CPUs where it does: it warns where it must find out."""
    import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
