"""Words for devices, dtypes and numbers: what is refused, and what auto means."""

import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from medground.arguments import AtLeast, Count, NotNegative, Positive, objection
from medground.devices import Device, device_of, dtype_of, require_modules
from medground.errors import RecipeError


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 3), (int, np.int64(3)), (float, 3), (float, np.float32(0.5)), (bool, False), (str, "x"), (str, Path("x")),
        (Count | None, None), (Count, 1), (NotNegative, 0), (Positive, 1e-9), (list[int], [1]), (dict[str, int], {}),
        (Literal["auto"] | Literal["float32"], "float32"), (str | Count, 4), ("text", object()), (os.PathLike, 3),
        *[(Device, word) for word in ("auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps")],
    ],
)  # fmt: skip
def test_what_suits_an_annotation(annotation, value):
    assert objection(annotation, value) is None


@pytest.mark.parametrize(
    ("annotation", "value", "what", "hint"),
    [
        (int, True, "true is not a whole number", "write a whole number"),
        (float, "1", "'1' is not a number", "write a number"),
        (bool, 0, "0 is not true or false", "write true or false"),
        (str, None, "null is not a word", "write a word"),
        (list[int], "abc", "'abc' is not a list", "write a list"),
        (Count, 0, "0 is below 1", "write 1 or more"),
        (NotNegative, -0.5, "-0.5 is below 0", "write 0 or more"),
        (Positive | None, 0, "0 is not above 0", "write a larger number, or null"),
        (Annotated[int, AtLeast(2)], 1, "1 is below 2", "write 2 or more"),
        (Literal["auto"] | Literal["float32"], "flot32", "'flot32' is not one of its words", "did you mean 'float32'?"),
        (str | Count, 0, "0 is not a word and 0 is below 1", "write a word"),
        (Device, "cuda:x", "'cuda:x' is no device", "did you mean 'cuda:0'?"),
        (Device, "tpu", "'tpu' is no device", "did you mean 'cpu'?"),
        (Device, "nvidia", "'nvidia' is no device", "did you mean 'cuda'?"),
    ],
)
def test_what_does_not_suit_an_annotation(annotation, value, what, hint):
    assert objection(annotation, value) == (what, hint)


@pytest.fixture
def machine(monkeypatch):
    """Pretend that a machine has so many CUDA devices."""
    torch = pytest.importorskip("torch")

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(("count", "device"), [(0, "cpu"), (1, "cuda"), (4, "cuda")])
def test_auto_is_cuda_where_there_is_one(machine, count, device):
    machine(count)
    assert device_of("auto") == device


def test_a_device_that_the_machine_has_is_itself(machine):
    machine(2)
    assert [device_of(word) for word in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]


@pytest.mark.parametrize(
    ("count", "word", "sentence"),
    [
        (0, "cuda", "cuda is not available: this machine has 0 CUDA devices"),
        (1, "cuda:1", "cuda:1 is not available: this machine has 1 CUDA device"),
        (2, "cuda:7", "cuda:7 is not available: this machine has 2 CUDA devices"),
    ],
)
def test_a_device_that_the_machine_lacks(machine, count, word, sentence):
    machine(count)
    with pytest.raises(RecipeError) as caught:
        device_of(word)
    assert caught.value.message.startswith(sentence) and caught.value.hint == "write device: auto, or device: cpu"


def test_wrong_words_are_errors_of_the_recipe():
    with pytest.raises(RecipeError, match=r"'gpu' is no device.*did you mean 'cuda'"):
        device_of("gpu")
    with pytest.raises(RecipeError, match=r"no dtype 'bf16'.*did you mean 'bfloat16'"):
        dtype_of("bf16")


def test_a_module_that_is_not_installed_is_named():
    require_modules("json", "click")
    with pytest.raises(ModuleNotFoundError) as caught:
        require_modules("json", "a_library_nobody_has")
    assert caught.value.name == "a_library_nobody_has"
