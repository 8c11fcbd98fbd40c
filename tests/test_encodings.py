"""Counting encodings changes nothing in what is counted: objects are looked at, their own methods are not called."""

from collections import UserDict
from collections.abc import Mapping

import numpy as np
import pytest

from medground.testing.encodings import EncodingCalls


class Incomplete(Mapping):
    """A mapping that cannot be read before its constructor has ended, as a class of SciPy's is."""

    def __init__(self, picture):
        self.data = {"picture": picture}

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        return iter(self.data)

    def __getitem__(self, key):
        return self.data[key]


class Secretive(dict):
    """A dictionary whose own methods fail."""

    def values(self):
        raise RuntimeError("not yet")

    items = __iter__ = __len__ = values

    def __getattribute__(self, name):
        raise RuntimeError("not yet")


class Half(UserDict):
    """A dictionary with nothing in it yet."""

    def __init__(self):
        pass


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)


def encode(image, beside=None):
    return image.astype(np.float32)


def counted(work):
    with EncodingCalls({}) as calls:
        work()
    return calls.repeats()


def test_an_object_that_is_not_complete_yet_is_built_and_the_count_goes_on():
    image = picture()

    def work():
        Incomplete(image)
        encode(image)
        encode(image)

    assert counted(work) == {f"{__name__}.encode": 2}


@pytest.mark.parametrize("what", ["dict", "UserDict", "list"])
def test_methods_of_what_a_call_is_given_are_not_called(what):
    image = picture()
    beside = {"dict": Secretive(a=1), "UserDict": Half(), "list": [Secretive(a=picture(1))]}[what]
    assert counted(lambda: (encode(image, beside), encode(image, beside))) == {f"{__name__}.encode": 2}


def test_a_picture_in_a_dictionary_of_any_class_is_seen():
    image = picture()

    def inside(batch):
        return dict.__getitem__(batch, "pixels").astype(np.float32)

    assert sum(counted(lambda: (inside(Secretive(pixels=image)), None)).values()) == 1


def test_a_tensor_that_holds_no_numbers_is_left_alone():
    torch = pytest.importorskip("torch", reason="needs torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    image = picture()
    with FakeTensorMode():
        nothing = torch.zeros(3, 16, 16)
    assert counted(lambda: encode(image, nothing)) == {f"{__name__}.encode": 1}
