"""Crafted files of weights and checkpoint folders, and random changes of good ones; each is loaded or refused.

    python tests/crafted_weights.py FOLDER KIND ROUNDS SEED

writes files into FOLDER, loads each as its component does, and prints one line of JSON per file: its name, the class of the
error ("" where it loads), the message, the seconds of computing; then the most bytes the process had. KIND is one of `KINDS`;
ROUNDS random changes follow the crafted files. A file that takes five minutes ends the process.
"""

import copy
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from medground import registry
from medground.types import Sampling

Write = Callable[[Path], Any]
REFUSED, LOADED = True, False


class Program:
    """A pickle written by hand: instructions of protocol 2, and values as pickle writes them."""

    def __init__(self, code: bytes = b"") -> None:
        self.code = b"\x80\x02" + code

    def __add__(self, more: bytes) -> "Program":
        return Program(self.code[2:] + more)


def value(plain: Any) -> bytes:
    """Return the instructions that put a plain value on the stack; without memo, so that they can be joined."""
    text = pickle.dumps(plain, protocol=2)[2:-1]
    return text


def name(module: str, word: str) -> bytes:
    return f"c{module}\n{word}\n".encode()


def text(word: str) -> bytes:
    encoded = word.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(count: int) -> bytes:
    return b"\x8a" + bytes([length := count.bit_length() // 8 + 1]) + count.to_bytes(length, "little", signed=True)


def storage(kind: str = "FloatStorage", key: str = "0", elements: int = 4, word: str = "storage") -> bytes:
    return b"(" + text(word) + name("torch", kind) + text(key) + text("cpu") + number(elements) + b"tQ"


def tensor(
    shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), offset: int = 0, inside: bytes | None = None
) -> bytes:
    numbers = [b"(" + b"".join(map(number, counts)) + b"t" for counts in (shape, strides)]
    arguments = (inside or storage()) + number(offset) + numbers[0] + numbers[1] + b"\x89" + b"}"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def state(content: bytes, key: str = "a") -> bytes:
    """Return the instructions of a dictionary with one item."""
    return b"}" + text(key) + content + b"s"


def archive(
    program: bytes,
    records: dict[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    folder: str = "archive",
) -> Write:
    """Return a writer of a PyTorch file of this program and these records, by default one storage of 4 floats."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as out:
            out.writestr(f"{folder}/data.pkl", program)
            for record, content in ({"data/0": struct.pack("<4f", 1, 2, 3, 4)} if records is None else records).items():
                out.writestr(f"{folder}/{record}", content)

    return write


def pickled(content: bytes, **settings: Any) -> Write:
    return archive(b"\x80\x02" + content + b".", **settings)


def patched(write: Write, change: Callable[[bytearray], Any]) -> Write:
    """Return a writer that changes what another wrote."""

    def both(path: Path) -> None:
        write(path)
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content) or content)

    return both


def end_field(offset: int, fill: bytes) -> Callable[[bytearray], None]:
    """Return a change of a field in the end record of a zip archive."""

    def change(content: bytearray) -> None:
        at = content.rfind(b"PK\5\6") + offset
        content[at : at + len(fill)] = fill

    return change


def directory_field(offset: int, fill: bytes) -> Callable[[bytearray], None]:
    """Return a change of a field of the first entry in the directory of a zip archive."""

    def change(content: bytearray) -> None:
        at = content.find(b"PK\1\2") + offset
        content[at : at + len(fill)] = fill

    return change


def legacy(*parts: bytes, tail: bytes = b"") -> Write:
    """Return a writer of a file as PyTorch wrote it before 1.6: pickles one after another, then the storages."""
    return lambda path: path.write_bytes(b"".join(b"\x80\x02" + part + b"." for part in parts) + tail)


MAGIC = [number(0x1950A86A20F9469CFC6C), number(1001), b"}"]
LIST_OF_KEY = b"]" + text("0") + b"a"


def nested_tuples(depth: int) -> bytes:
    return b")" + b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(depth))


def toy_path() -> str:
    from medground_sam.segmenters import ToySam

    return ToySam.published[0].id


def toy() -> dict[str, torch.Tensor]:
    """Return the weights of the small SAM of the package."""
    return load_file(toy_path())


def changed(*changes: Callable[[dict[str, torch.Tensor]], Any]) -> dict[str, torch.Tensor]:
    weights = toy()
    for change in changes:
        weights = change(weights) or weights
    return weights


def saved(content: Callable[[], Any], **settings: Any) -> Write:
    return lambda path: torch.save(content(), path, **settings)


def renamed(rename: Callable[[str], str]) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: {rename(key): tensor for key, tensor in toy().items()}


def filled(number: float) -> dict[str, torch.Tensor]:
    weights = toy()
    next(iter(weights.values())).view(-1)[0] = number
    return weights


def without(word: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in toy().items() if word not in key}


def wrapped_inside(word: str) -> Callable[[str], str]:
    """Return a change of names: a part of a name before its last two parts."""
    return lambda key: ".".join([*key.split(".")[:1], word, *key.split(".")[1:]])


def one_storage(count: int) -> Callable[[], dict[str, torch.Tensor]]:
    def build() -> dict[str, torch.Tensor]:
        whole = torch.zeros(1000)
        return {str(index): whole[index % 1000 :] for index in range(count)}

    return build


WRAPPERS: dict[str, Callable[[str], str]] = {
    "module": lambda key: f"module.{key}",
    "compiled": lambda key: f"_orig_mod.{key}",
    "compiled and parallel": lambda key: f"module._orig_mod.{key}",
    "an encoder compiled alone": wrapped_inside("_orig_mod"),
    "lightning's model": lambda key: f"model.{key}",
    "lightning's sam": lambda key: f"sam.{key}",
    "lightning's model, compiled": lambda key: f"model._orig_mod.{key}",
    "deeper attributes": lambda key: f"net.segmenter.{key}",
    "FSDP": lambda key: f"_fsdp_wrapped_module.{key}",
}
PICKLES: dict[str, tuple[bool, str, Write]] = {
    **{
        f"{wrapper}: {name}": (
            LOADED,
            "",
            saved(lambda wrapper=wrapper, rename=rename: WRAPPED[wrapper](renamed(rename)())),
        )
        for (wrapper, name, rename) in (
            (wrapper, name, rename) for wrapper in ("bare", "state_dict", "two") for name, rename in WRAPPERS.items()
        )
    },
    "legacy": (LOADED, "", saved(toy, _use_new_zipfile_serialization=False)),
    "an ordered dictionary": (LOADED, "", saved(lambda: OrderedDict(toy()))),
    "parameters": (LOADED, "", saved(lambda: {key: torch.nn.Parameter(t) for key, t in toy().items()})),
    "a checkpoint of lightning": (
        LOADED,
        "",
        saved(
            lambda: {
                "state_dict": renamed(WRAPPERS["lightning's sam"])(),
                "epoch": 3,
                "hyper_parameters": {"lr": 0.1},
                "lr_schedulers": [],
                "loops": {"a": {"b": (1, 2.5, None, "x")}},
            }
        ),
    ),
    "transposed views": (
        LOADED,
        "",
        saved(lambda: {key: t.t().contiguous().t() if t.ndim == 2 else t for key, t in toy().items()}),
    ),
    "two models": (REFUSED, "more than one model", saved(lambda: {"model": toy(), "state_dict": toy()})),
    "teacher and student": (
        REFUSED,
        "more than one model",
        saved(lambda: {f"{who}.{key}": t for who in ("teacher", "student") for key, t in toy().items()}),
    ),
    "names that become one": (
        REFUSED,
        "two tensors of one name",
        saved(lambda: toy() | renamed(WRAPPERS["compiled"])()),
    ),
    "an unknown wrapper": (REFUSED, "such as network", saved(lambda: {"network": toy(), "other": toy()})),
    "a loss beside a lightning model": (
        REFUSED,
        "1 unexpected: loss.weight",
        saved(lambda: renamed(WRAPPERS["lightning's model"])() | {"loss.weight": torch.ones(1)}),
    ),
    "NaN": (REFUSED, "NaN or infinity in 1 tensors", saved(lambda: filled(float("nan")))),
    "infinity": (REFUSED, "NaN or infinity", saved(lambda: filled(float("-inf")))),
    "one missing": (REFUSED, "1 missing: mask_decoder.iou_token.weight", saved(lambda: without("iou_token"))),
    "half missing": (REFUSED, "is no SAM checkpoint", saved(lambda: without("mask_decoder"))),
    "all renamed": (REFUSED, "is no SAM checkpoint", saved(renamed(lambda key: key[::-1]))),
    "a block of a high number": (
        REFUSED,
        "is no SAM checkpoint",
        saved(lambda: toy() | {"image_encoder.blocks.9999.norm1.weight": torch.ones(1)}),
    ),
    "a decoder layer of a high number": (
        REFUSED,
        "is no SAM checkpoint",
        saved(lambda: toy() | {"mask_decoder.transformer.layers.9999.norm1.weight": torch.ones(1)}),
    ),
    **{
        f"{key} of shape {shape}": (REFUSED, "", saved(lambda key=key, shape=shape: toy() | {key: torch.ones(shape)}))
        for key in (
            "image_encoder.pos_embed",
            "image_encoder.patch_embed.proj.weight",
            "image_encoder.blocks.0.attn.rel_pos_h",
            "prompt_encoder.no_mask_embed.weight",
            "mask_decoder.mask_tokens.weight",
        )
        for shape in ((), (1,), (0, 0), (1, 1, 1, 1), (7, 7, 7, 7), (2, 3))
    },
    "integers for weights": (REFUSED, "", saved(lambda: {key: t.to(torch.int8) for key, t in toy().items()})),
    "an empty dictionary": (REFUSED, "not a dictionary of weights", saved(dict)),
    "a list": (REFUSED, "not a dictionary of weights", saved(lambda: [1, 2])),
    "a tensor": (REFUSED, "not a dictionary of weights", saved(lambda: torch.ones(3))),
    "a whole model": (REFUSED, "besides tensors", saved(lambda: torch.nn.Linear(2, 2))),
    "a sparse tensor": (REFUSED, "besides tensors", saved(lambda: {"a": torch.eye(3).to_sparse()})),
    "complex numbers": (REFUSED, "besides tensors", saved(lambda: {"a": torch.ones(2, dtype=torch.complex64)})),
    "a stride of 0": (REFUSED, "is stored as", saved(lambda: {"a": torch.ones(1).expand(10**12)})),
    "many tensors on one storage": (REFUSED, "steps", saved(one_storage(70_000))),
    "whole tensors that overlap": (REFUSED, "overlap", saved(one_storage(5_000))),
    "bytes of a set": (REFUSED, "", saved(lambda: {"a": {1, 2, 3}})),
    "a key of nested tuples": (REFUSED, "under a tuple", pickled(b"}" + nested_tuples(40) + tensor() + b"s")),
    "a value of nested tuples": (REFUSED, "", pickled(state(nested_tuples(60)))),
    "an ordered dictionary of nested tuples": (
        REFUSED,
        "",
        pickled(name("collections", "OrderedDict") + b"]" + b"]" + nested_tuples(40) + b"aNaa\x85R"),
    ),
    "a bytearray of 60 GB": (
        REFUSED,
        "bytearray",
        pickled(name("builtins", "bytearray") + number(60 * 2**30) + b"\x85R"),
    ),
    "a method replaced": (
        REFUSED,
        "",
        pickled(name("collections", "OrderedDict") + b")R}" + text("get") + b"K\x01sb" + text("x") + tensor() + b"0"),
    ),
    "a memo of a high number": (REFUSED, "dictionary of weights", pickled(b"}r\xff\xff\xff\x7f")),
    "a memo of a text": (REFUSED, "instruction PUT", pickled(b"}p99999999999999\n")),
    "millions of instructions": (REFUSED, "steps", pickled(b"]" + b"]a" * 2_000_000)),
    "millions of lists": (REFUSED, "steps", pickled(b"(" + b"]" * 5_000_000 + b"t")),
    "a long integer": (REFUSED, "", pickled(b"\x8b" + struct.pack("<i", 2**31 - 1))),
    "an integer of text": (REFUSED, "", pickled(b"L" + b"9" * 1_000_000 + b"L\n")),
    "a text that is cut": (REFUSED, "", pickled(b"X\xff\xff\xff\x7fabc")),
    "deep lists": (REFUSED, "", pickled(b"]" * 200_000 + b"a" * 199_999)),
    "deep marks": (REFUSED, "", pickled(b"(" * 500_000)),
    "os.system": (REFUSED, "os.system", pickled(name("os", "system") + text("touch ran") + b"\x85R")),
    "eval": (REFUSED, "builtins.eval", pickled(name("__builtin__", "eval") + text("1") + b"\x85R")),
    "torch.load": (REFUSED, "torch.load", pickled(name("torch", "load") + text("/etc/passwd") + b"\x85R")),
    "a name on the stack": (REFUSED, "os.system", pickled(text("os") + text("system") + b"\x93")),
    "names of numbers": (REFUSED, "", pickled(b"K\x01K\x02\x93")),
    "an extension": (REFUSED, "instruction EXT1", pickled(b"\x82\x01")),
    "an instance": (REFUSED, "instruction INST", pickled(b"(ios\nsystem\n")),
    "an object": (REFUSED, "", pickled(b"(" + name("os", "system") + b"o")),
    "an unknown instruction": (REFUSED, "", pickled(b"\xff")),
    "an empty stack": (REFUSED, "", pickled(b"0")),
    "no stack": (REFUSED, "", pickled(b"")),
    "an absent memo": (REFUSED, "", pickled(b"h\x07")),
    "no mark": (REFUSED, "", pickled(b"}u")),
    "an item of a list": (REFUSED, "", pickled(b"]K\x01K\x02s")),
    "an append to a dictionary": (REFUSED, "", pickled(b"}K\x01a")),
    "an odd number of items": (REFUSED, "", pickled(b"}(K\x01u")),
    "a list as key": (REFUSED, "under a list", pickled(b"}]K\x01s")),
    "a call of a text": (REFUSED, "calls a str", pickled(text("a") + b")R")),
    "a call with a number": (REFUSED, "", pickled(name("torch._utils", "_rebuild_tensor_v2") + b"K\x01R")),
    "a tensor of a number": (REFUSED, "", pickled(state(tensor(inside=b"K\x01")))),
    "a reference that is a number": (REFUSED, "", pickled(b"K\x01Q")),
    "a reference to a module": (REFUSED, "refers to", pickled(state(tensor(inside=storage(word="module"))))),
    "a storage of an unknown type": (REFUSED, "besides", pickled(state(tensor(inside=storage("QInt8Storage"))))),
    "a storage of a class": (REFUSED, "besides", pickled(state(tensor(inside=storage("Generator"))))),
    "a storage that is absent": (REFUSED, "", pickled(state(tensor(inside=storage(key="7"))))),
    "a storage outside the archive": (REFUSED, "", pickled(state(tensor(inside=storage(key="../../../etc/passwd"))))),
    "a storage that is too short": (REFUSED, "", pickled(state(tensor()), records={"data/0": b"1234"})),
    "a storage of 4 TB": (REFUSED, "does not fit", pickled(state(tensor(inside=storage(elements=2**40))))),
    "a storage of less than nothing": (REFUSED, "", pickled(state(tensor(inside=storage(elements=-4))))),
    "a storage of two types": (
        REFUSED,
        "two things",
        pickled(state(tensor()) + text("b") + tensor(inside=storage("LongStorage", elements=2)) + b"s"),
    ),
    "a shape of less than nothing": (REFUSED, "", pickled(state(tensor(shape=(-4,))))),
    "a negative stride": (REFUSED, "", pickled(state(tensor(strides=(-1,))))),
    "a negative offset": (REFUSED, "", pickled(state(tensor(offset=-1)))),
    "an offset outside": (REFUSED, "is stored as", pickled(state(tensor(offset=2)))),
    "a stride outside": (REFUSED, "is stored as", pickled(state(tensor(shape=(2,), strides=(4,))))),
    "a shape without strides": (REFUSED, "", pickled(state(tensor(strides=())))),
    "a side of 1e18 of nothing": (REFUSED, "", pickled(state(tensor(shape=(0, 10**18), strides=(1, 1))))),
    "a hundred dimensions": (REFUSED, "", pickled(state(tensor(shape=(1,) * 100, strides=(1,) * 100)))),
    "sides of 2000 bits": (REFUSED, "", pickled(state(tensor(shape=(2**2000,) * 30, strides=(2**2000,) * 30)))),
    "a compressed archive": (
        REFUSED,
        "compressed",
        pickled(state(tensor()), compression=zipfile.ZIP_DEFLATED, records={"data/0": bytes(200_000_000)}),
    ),
    "an entry of 1 TB": (
        REFUSED,
        "",
        patched(pickled(state(tensor())), directory_field(20, struct.pack("<II", 2**32 - 2, 2**32 - 2))),
    ),
    "an entry beyond the end": (
        REFUSED,
        "",
        patched(pickled(state(tensor())), directory_field(42, struct.pack("<I", 2**31))),
    ),
    "an encrypted entry": (REFUSED, "", patched(pickled(state(tensor())), directory_field(8, b"\1\0"))),
    "an unknown compression": (REFUSED, "", patched(pickled(state(tensor())), directory_field(10, b"\x63\0"))),
    "a directory of 4 GB": (
        REFUSED,
        "directory",
        patched(pickled(state(tensor())), end_field(12, b"\xfe\xff\xff\xff")),
    ),
    "a directory of many entries": (REFUSED, "directory", lambda path: directory(path, 400_000)),
    "a directory elsewhere": (REFUSED, "", patched(pickled(state(tensor())), end_field(16, b"\xff\xff\xff\x7f"))),
    "no end": (REFUSED, "truncated", patched(pickled(state(tensor())), lambda content: content[:-30])),
    "a damaged record": (
        REFUSED,
        "",
        patched(saved(toy), lambda content: content.__setitem__(len(content) // 2, content[len(content) // 2] ^ 1)),
    ),
    "two programs": (REFUSED, "another kind", pickled(state(tensor()), records={"x/data.pkl": b"\x80\x02}."})),
    "TorchScript": (REFUSED, "another kind", pickled(state(tensor()), records={"constants.pkl": b"", "data/0": b""})),
    "no program": (REFUSED, "another kind", lambda path: plain_zip(path, {"a/readme.txt": b"hello"})),
    "an empty archive": (REFUSED, "", lambda path: plain_zip(path, {})),
    "big-endian": (REFUSED, "byte order", pickled(state(tensor()), records={"byteorder": b"big", "data/0": bytes(16)})),
    "an empty file": (REFUSED, "", lambda path: path.write_bytes(b"")),
    "two bytes of an archive": (REFUSED, "", lambda path: path.write_bytes(b"PK")),
    "a page of HTML": (REFUSED, "", lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>")),
    "a git-LFS pointer": (
        REFUSED,
        "git-LFS",
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    ),
    "a legacy file of another magic": (REFUSED, "does not begin", legacy(number(5), *MAGIC[1:], b"}", b"]")),
    "a legacy file that is cut": (REFUSED, "", legacy(*MAGIC, state(tensor()), LIST_OF_KEY, tail=bytes(9))),
    "a legacy file without keys": (REFUSED, "", legacy(*MAGIC, state(tensor()))),
    "a legacy key that is absent": (
        REFUSED,
        "",
        legacy(*MAGIC, state(tensor()), b"]" + text("9") + b"a", tail=bytes(99)),
    ),
    "legacy keys that are a number": (REFUSED, "", legacy(*MAGIC, state(tensor()), b"K\x05", tail=bytes(99))),
    "a legacy bomb": (REFUSED, "", legacy(b"}" + nested_tuples(40) + b"Ns")),
    "a pipe": (REFUSED, "no regular file", lambda path: os.mkfifo(path)),
    "a device": (REFUSED, "no regular file", lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": (REFUSED, "", lambda path: path.symlink_to(path)),
    "a folder": (REFUSED, "", lambda path: path.mkdir()),
}
WRAPPED: dict[str, Callable[[Any], Any]] = {
    "bare": lambda weights: weights,
    "state_dict": lambda weights: {"epoch": 1, "state_dict": weights},
    "two": lambda weights: {"checkpoint": {"model": weights, "step": 5}},
}


def plain_zip(path: Path, records: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as out:
        for record, content in records.items():
            out.writestr(record, content)


def directory(path: Path, count: int) -> None:
    """Write an archive that is little more than its directory, as a few megabytes can hold."""
    plain_zip(path, {"a/data.pkl": b"\x80\x02}."})
    content = path.read_bytes()
    start, end = content.find(b"PK\1\2"), content.rfind(b"PK\5\6")
    entries = content[start:end] * count
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, len(entries), start, 0)
    path.write_bytes(content[:start] + entries + tail)


def header(entries: Any, data: bytes = bytes(16), length: int | None = None) -> Write:
    """Return a writer of a safetensors file with this header."""
    words = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    size = len(words) if length is None else length
    return lambda path: path.write_bytes(struct.pack("<Q", size) + words + data)


def entry(shape: Any = (4,), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def as_safetensors(content: Callable[[], dict[str, torch.Tensor]]) -> Write:
    return lambda path: save_file({key: tensor.contiguous() for key, tensor in content().items()}, path)


SAFETENSORS: dict[str, tuple[bool, str, Write]] = {
    **{name: (LOADED, "", as_safetensors(renamed(rename))) for name, rename in WRAPPERS.items()},
    "names that become one": (
        REFUSED,
        "two tensors of one name",
        as_safetensors(lambda: toy() | {f"_orig_mod.{key}": tensor.clone() for key, tensor in toy().items()}),
    ),
    "NaN": (REFUSED, "NaN or infinity", as_safetensors(lambda: filled(float("nan")))),
    "one missing": (REFUSED, "1 missing", as_safetensors(lambda: without("iou_token"))),
    "another model": (REFUSED, "is no SAM checkpoint: it lacks image_encoder.pos_embed; it holds 1 names, such as a",
                      as_safetensors(lambda: {"a": torch.ones(1)})),
    "nothing": (REFUSED, "", header({}, b"")),
    "a header of 2^63 bytes": (REFUSED, "truncated", header({}, length=2**63 - 1)),
    "a header of 100 MB": (REFUSED, "", header(b"{" + b" " * 100_000_000 + b"}")),
    "a header that is cut": (REFUSED, "truncated", header({"a": entry()}, b"", length=500)),
    "a header of no JSON": (REFUSED, "", header(b"hello")),
    "a header that is a list": (REFUSED, "", header([1])),
    "a header of bad text": (REFUSED, "", header(b'{"\xff": 1}')),
    "a deep header": (REFUSED, "", header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "a name that stands twice": (REFUSED, "", header(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2))),
    "an entry without shape": (REFUSED, "", header({"a": {"dtype": "F32", "data_offsets": [0, 16]}})),
    "an entry that is a number": (REFUSED, "", header({"a": 5})),
    "a negative side": (REFUSED, "", header({"a": entry([-4])})),
    "a side of 1e18": (REFUSED, "", header({"a": entry([10**18])})),
    "a side of 1e18 of nothing": (REFUSED, "", header({"a": entry([0, 10**18], [0, 0])}, b"")),
    "a side of text": (REFUSED, "", header({"a": entry(["4"])})),
    "a side that is true": (REFUSED, "", header({"a": entry([True, 4])})),
    "a thousand dimensions": (REFUSED, "", header({"a": entry([1] * 1000 + [4])})),
    "offsets beyond the end": (REFUSED, "truncated", header({"a": entry(offsets=[0, 10**15])})),
    "offsets in reverse": (REFUSED, "", header({"a": entry(offsets=[16, 0])})),
    "negative offsets": (REFUSED, "", header({"a": entry(offsets=[-16, 0])})),
    "offsets of text": (REFUSED, "", header({"a": entry(offsets=["0", "16"])})),
    "offsets that overlap": (REFUSED, "", header({"a": entry(), "b": entry()})),
    "a gap": (REFUSED, "", header({"a": entry(offsets=[16, 32])}, bytes(32))),
    "another length than the shape's": (REFUSED, "", header({"a": entry([3])})),
    "an unknown dtype": (REFUSED, "", header({"a": entry(dtype="F9")})),
    "a dtype that is a number": (REFUSED, "", header({"a": entry(dtype=5)})),
    "8-bit floats": (REFUSED, "", header({"a": entry([16], dtype="F8_E4M3")})),
    "metadata of numbers": (REFUSED, "", header({"__metadata__": {"a": 1}, "a": entry()})),
    "500,000 tensors": (REFUSED, "", header({str(i): entry([0], [0, 0]) for i in range(500_000)}, b"")),
    "100,000 tensors": (REFUSED, "more than 65,536", header({str(i): entry([0], [0, 0]) for i in range(100_000)}, b"")),
    "a name of a megabyte": (REFUSED, "", header({"a" * 1_000_000: entry()})),
    "bytes after the end": (REFUSED, "", header({"a": entry()}, bytes(100))),
    "an empty file": (REFUSED, "truncated", lambda path: path.write_bytes(b"")),
    "a pipe": (REFUSED, "no regular file", lambda path: os.mkfifo(path)),
    "a device": (REFUSED, "no regular file", lambda path: path.symlink_to("/dev/zero")),
}  # fmt: skip


def load_sam(path: Path) -> Any:
    return registry.build("segmenter", "sam", checkpoint=str(path), device="cpu")


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return the content with one to four random changes: bytes, runs, cuts, copies, numbers at their bounds."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(max(1, len(changed))), rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(7):
            case 0:
                changed[at : at + length] = rng.randbytes(length)
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + length]
            case 3:
                other = rng.randrange(max(1, len(changed)))
                changed[at:at] = changed[other : other + length]
            case 4:
                changed[at : at + 4] = rng.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")
                )
            case 5:
                changed[at : at + 1] = bytes([changed[at] ^ (1 << rng.randrange(8))]) if changed else b""
            case 6:
                changed[at : at + 1] = rng.choice(
                    (b"0", b"9", b'"', b"{", b"]", b",", b"-", b"e", b"(", b".", b"R", b"Q")
                )
    return bytes(changed)


def dense(content: bytes, rng: random.Random) -> bytes:
    """Return a PyTorch file whose program is changed, and with it the lengths and sums that zip keeps of it."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        records = {record: old.read(record) for record in old.namelist()}
    program = next(record for record in records if record.endswith("data.pkl"))
    records[program] = mutated(records[program], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for record, data in records.items():
            new.writestr(record, data)
    return out.getvalue()


def mutated_header(content: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file whose header alone is changed, with its length."""
    length = int.from_bytes(content[:8], "little")
    words = mutated(content[8 : 8 + length], rng)
    return struct.pack("<Q", len(words)) + words + content[8 + length :]


def mutated_json(settings: Any, rng: random.Random) -> Any:
    """Return parsed JSON with one value replaced, deleted or moved."""
    places = [(settings, key) for key in settings]
    for container, key in places:
        inside = container[key]
        if isinstance(inside, dict | list):
            places += [(inside, index) for index in (inside if isinstance(inside, dict) else range(len(inside)))]
    container, key = rng.choice(places)
    if rng.random() < 0.15:
        del container[key]
    elif rng.random() < 0.1:
        other, place = rng.choice(places)
        container[key] = copy.deepcopy(other[place])
    else:
        container[key] = rng.choice(
            (None, True, "", "x", "evil/kernel", 0, 1, -1, 2, 3, 7, 64, 1e-9, 0.5, -0.5, 10**7, 10**13, 2**31, 10**40, 1e308,
             float("nan"), float("inf"), [], {}, [1], ["x"], {"a": 1}, [0] * 1000, "a" * 100_000, [[[[]]]])
        )  # fmt: skip
    return settings


def vlm_folder(target: Path) -> Path:
    from medground_qwen import factories

    return Path(shutil.copytree(Path(factories.__file__).with_name("toy_vlm"), target))


def setting(file: str, *keys: str, to: Any) -> Write:
    """Return a change of one value in a JSON file of a folder; the key may be written in escapes."""

    def write(folder: Path) -> None:
        settings = inside = json.loads((folder / file).read_text())
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = to
        (folder / file).write_text(json.dumps(settings))

    return write


def replaced(file: str, content: str) -> Write:
    return lambda folder: (folder / file).write_text(content)


def escaped(file: str, key: str, to: Any) -> Write:
    """Return a change that adds a key written in JSON escapes, which a search for text does not find."""

    def write(folder: Path) -> None:
        words = (folder / file).read_text()
        code = "".join(f"\\u{ord(letter):04x}" for letter in key)
        (folder / file).write_text(words.replace("{", f'{{"{code}": {json.dumps(to)},', 1))

    return write


def reweighted(change: Callable[[dict[str, torch.Tensor]], Any]) -> Write:
    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights = change(weights) or weights
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def fifo(file: str) -> Write:
    def write(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return write


def of_language(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {(f"policy.{key}" if "language_model" in key else key): tensor for key, tensor in weights.items()}


def with_nan(weights: dict[str, torch.Tensor]) -> None:
    next(iter(weights.values())).view(-1)[0] = float("nan")


CONFIG, PIXELS, TOKENS = "config.json", "processor_config.json", "tokenizer_config.json"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
FOLDERS: dict[str, tuple[bool, str, Write]] = {
    "as released": (LOADED, "", lambda folder: None),
    "sharded": (LOADED, "", lambda folder: shard(folder)),
    "a tensor missing": (REFUSED, "lacks 1 of the model's weights, such as model.language_model.layers.1.mlp.down_proj.weight",
                         reweighted(lambda w: {k: v for k, v in w.items() if "layers.1.mlp.down_proj" not in k})),
    "half of the tensors": (REFUSED, "lacks", reweighted(lambda w: dict(list(w.items())[::2]))),
    "language renamed": (REFUSED, "such as policy.", reweighted(of_language)),
    "no tensors": (REFUSED, "", reweighted(lambda w: {"a": torch.ones(1)})),
    "an unexpected tensor": (REFUSED, "holds 1 that the model does not have, such as extra",
                             reweighted(lambda w: w | {"extra": torch.ones(1)})),
    "NaN": (REFUSED, "NaN or infinity", reweighted(with_nan)),
    "a shard missing": (REFUSED, "which is not in the folder", lambda folder: shard(folder, lose=True)),
    "a shard elsewhere": (REFUSED, "which is not in the folder",
                          lambda folder: shard(folder, index={"a": "../../../etc/passwd"})),
    "an index that is a list": (REFUSED, "", lambda folder: shard(folder, index=[])),
    "weights that are a pipe": (REFUSED, "no regular file", fifo("model.safetensors")),
    **{f"{file} is a pipe": (REFUSED, "no regular file", fifo(file))
       for file in (CONFIG, PIXELS, TOKENS, "tokenizer.json", "chat_template.jinja", "generation_config.json", "merges.txt")},
    **{f"{file} is {what}": (REFUSED, "", replaced(file, content))
       for file in (CONFIG, PIXELS, TOKENS, "generation_config.json", "tokenizer.json")
       for what, content in {"a list": "[]", "empty": "", "a number": "5", "null": "null", "deep": "[" * 100_000,
                             "a pointer": "version https://git-lfs.github.com/spec/v1\n"}.items()},
    "tokenizer.json is {}": (REFUSED, "tokenizer.json is wrong", replaced("tokenizer.json", "{}")),
    "config.json is {}": (REFUSED, "nameless", replaced(CONFIG, "{}")),
    "config.json is 5 MB": (REFUSED, "larger than", replaced(CONFIG, '{"a": "' + "a" * 5_000_000 + '"}')),
    "auto_map": (REFUSED, "would run code", setting(CONFIG, "auto_map", to={"AutoModel": "x.Y"})),
    "auto_map in escapes": (REFUSED, "would run code", escaped(CONFIG, "auto_map", {"AutoModel": "x.Y"})),
    "auto_map inside": (REFUSED, "would run code", setting(CONFIG, "text_config", "auto_map", to={"AutoModel": "x.Y"})),
    "auto_map of the processor": (REFUSED, "would run code", escaped(PIXELS, "auto_map", {"AutoProcessor": "x.Y"})),
    "auto_map of the tokenizer": (REFUSED, "would run code", escaped(TOKENS, "auto_map", {"AutoTokenizer": ["x.Y", None]})),
    **{f"{key} of a kernel{how}": (REFUSED, "would fetch code", write(CONFIG, key, "evil/kernel"))
       for key in ("_attn_implementation", "_attn_implementation_internal", "attn_implementation")
       for how, write in {"": lambda file, key, to: setting(file, key, to=to), " in escapes": escaped}.items()},
    "an attention kernel of a part": (REFUSED, "would fetch code",
                                      setting(CONFIG, "_attn_implementation", to={"text_config": "evil/kernel"})),
    "quantised": (REFUSED, "no released checkpoint", setting(CONFIG, "quantization_config", to=5)),
    "quantised by kernels": (REFUSED, "no released checkpoint",
                             setting(CONFIG, "quantization_config", to={"quant_method": "mxfp4"})),
    **{f"{'.'.join(keys)} is {to}": (REFUSED, "", setting(CONFIG, *keys, to=to))
       for keys in (("text_config", "num_hidden_layers"), ("vision_config", "depth"), ("text_config", "hidden_size"),
                    ("text_config", "vocab_size"), ("vision_config", "patch_size"), ("text_config", "num_attention_heads"),
                    ("text_config", "head_dim"), ("vision_config", "hidden_size"), ("text_config", "intermediate_size"))
       for to in (10**7, 0, -1, 10**13, "x", None, [1], 1.5)
       if not (keys[1] == "head_dim" and to is None)},
    **{f"{key} is {to}": (REFUSED, "", setting(CONFIG, key, to=to)) for key in ("dtype", "torch_dtype")
       for to in ("evil", "load", 5, ["float32"])},
    "a rotary factor of 1e12": (REFUSED, "", setting(CONFIG, "text_config", "rope_parameters", to={
        "mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_theta": 1e4, "rope_type": "default",
        "partial_rotary_factor": 1e12})),
    "sections that do not add up": (REFUSED, "", setting(CONFIG, "text_config", "rope_parameters", "mrope_section",
                                                           to=[60, 50, 50])),
    "an unknown activation": (REFUSED, "", setting(CONFIG, "text_config", "hidden_act", to="evil")),
    "an image token of another number": (REFUSED, "", setting(CONFIG, "image_token_id", to=3)),
    "an image token that is a word": (REFUSED, "", setting(CONFIG, "image_token_id", to="<image>")),
    "another family": (REFUSED, "is a llama model", setting(CONFIG, "model_type", to="llama")),
    "a family of no text": (REFUSED, "", setting(CONFIG, "model_type", to=["qwen3_vl"])),
    **{f"image {key} is {to}": (REFUSED, "", setting(PIXELS, "image_processor", key, to=to))
       for key in ("patch_size", "merge_size", "temporal_patch_size") for to in (0, -1, 10**9, "x", None, 1.5)},
    **{f"image size is {to}": (REFUSED, "", setting(PIXELS, "image_processor", "size", to=to))
       for to in ({"longest_edge": 10**14, "shortest_edge": 10**13}, {"longest_edge": 0, "shortest_edge": 0},
                  {"longest_edge": "a", "shortest_edge": "b"}, [1, 2], "x")},
    "an image mean of words": (REFUSED, "", setting(PIXELS, "image_processor", "image_mean", to=["a", "b", "c"])),
    "a deviation of 0": (REFUSED, "", setting(PIXELS, "image_processor", "image_std", to=[0, 0, 0])),
    "an unknown image processor": (REFUSED, "", setting(PIXELS, "image_processor", "image_processor_type", to="Evil")),
    "an unknown processor": (REFUSED, "", setting(PIXELS, "processor_class", to="os.system")),
    "no processor": (REFUSED, "holds no processor_config.json", lambda folder: (folder / PIXELS).unlink()),
    "no template": (REFUSED, "has no chat template", lambda folder: (folder / "chat_template.jinja").unlink()),
    **{f"template: {name}": (REFUSED, why, replaced("chat_template.jinja", words)) for name, why, words in (
        ("a loop", "takes more than 5 s", LOOP),
        ("a text of 10 GB", "MemoryError", "{{ 'a' * 10 ** 10 }}"),
        ("a long text", "characters", "{{ 'a' * 10 ** 7 }}"),
        ("a list of 10 GB", "MemoryError", "{{ [1] * 10 ** 10 }}"),
        ("a filter", "", "{{ 'a' | center(10 ** 10) }}"),
        ("doubling", "", "{% set s = namespace(t='a') %}{% for i in range(60) %}{% set s.t = s.t ~ s.t %}{% endfor %}"),
        ("syntax", "TemplateSyntaxError", "{% for m in %}"),
        ("an attribute", "SecurityError", "{{ ''.__class__.__mro__ }}"),
        ("recursion", "RecursionError", "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"),
        ("its own error", "no", "{{ raise_exception('no') }}"),
        ("an include", "", "{% include '/etc/passwd' %}"),
        ("an unknown filter", "", "{{ 1 | evil }}"),
        ("division by 0", "", "{{ 1 // 0 }}"),
        ("a file", "", "{{ open('/etc/passwd') }}"),
        ("no image", "", "hello"),
        ("three images", "", "{% for i in range(3) %}<|vision_start|><|image_pad|><|vision_end|>{% endfor %}"),
        ("nothing", "", " "),
    )},
    "a tokenizer without vocabulary": (REFUSED, "", setting("tokenizer.json", "model", to={"type": "BPE"})),
    "a tokenizer of an unknown kind": (REFUSED, "", setting("tokenizer.json", "model", to={"type": "Evil"})),
    "a tokenizer with a slow pattern": (REFUSED, "takes more than", setting("tokenizer.json", "pre_tokenizer", to={
        "type": "Split", "pattern": {"Regex": "(a|aa|a+)+(a|aa|a+)+b$"}, "behavior": "Isolated", "invert": False})),
    "a tokenizer with a broken pattern": (REFUSED, "", setting("tokenizer.json", "pre_tokenizer", to={
        "type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False})),
    "a tokenizer that pads to 1e12": (REFUSED, "", setting("tokenizer.json", "padding", to={
        "strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "x"})),
    "tokens of high numbers": (REFUSED, "", setting("tokenizer.json", "added_tokens", to=[
        {"id": 4_000_000_000, "content": "<|image_pad|>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}])),
    "a tokenizer class": (LOADED, "", setting(TOKENS, "tokenizer_class", to="os.system")),
    "an end token that is a list": (REFUSED, "", setting(TOKENS, "eos_token", to=[1])),
    "five thousand files": (REFUSED, "holds more than", lambda folder: [(folder / f"{i}.txt").touch() for i in range(5000)]),
}  # fmt: skip


def shard(folder: Path, *, lose: bool = False, index: Any = None) -> None:
    """Split the weights of a folder over two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(weights)}
    for file in sorted(set(places.values()))[: 1 if lose else 2]:
        part = {key: tensor for key, tensor in weights.items() if places[key] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    content = {"metadata": {}, "weight_map": places if index is None else index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def load_vlm(folder: Path, **arguments: Any) -> Any:
    reasoner = registry.build("reasoner", "qwen3_vl", checkpoint=str(folder), device="cpu", **arguments)
    image = {"type": "image", "image": np.full((90, 70, 3), 99, np.uint8)}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": "Which lesion is new?"}]}]
    return reasoner.generate([messages], Sampling(num_generations=2, max_completion_length=3))


def adapter_folder(target: Path) -> Path:
    """Write an adapter of the small model of the package, as a run saves it."""
    from medground_qwen import factories

    adapted = factories.qwen3_vl(
        checkpoint=str(Path(factories.__file__).with_name("toy_vlm")), device="cpu", lora_rank=2, lora_alpha=4
    )
    adapted.save(target)
    for file in target.iterdir():
        if not file.name.startswith("adapter"):
            file.unlink()
    return target


def readapted(change: Callable[[dict[str, torch.Tensor]], Any]) -> Write:
    def write(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        weights = load_file(file)
        save_file(change(weights) or weights, file)

    return write


def all_names(change: Callable[[str], str]) -> Write:
    return readapted(lambda weights: {change(key): tensor for key, tensor in weights.items()})


ADAPTER = "adapter_config.json"
ADAPTERS: dict[str, tuple[bool, str, Write]] = {
    "as saved": (LOADED, "", lambda folder: None),
    "compiled names": (LOADED, "", all_names(lambda key: key.replace("model.", "model._orig_mod.", 1))),
    "targets as a pattern that hangs": (LOADED, "", setting(ADAPTER, "target_modules", to="(a+)+(a+)+(.*)*x$")),
    "layers for language_model.layers": (REFUSED, "it adapts model.layers.0",
                                         all_names(lambda key: key.replace("language_model.", ""))),
    "targets of another name": (REFUSED, "which its target_modules do not name", setting(ADAPTER, "target_modules", to=["q"])),
    "one factor missing": (REFUSED, "1 missing", readapted(lambda w: dict(list(w.items())[1:]))),
    "nothing": (REFUSED, "", readapted(lambda w: {"a": torch.ones(1)})),
    "a bias": (REFUSED, "", readapted(lambda w: w | {"base_model.model.lm_head.bias": torch.ones(3)})),
    "NaN": (REFUSED, "NaN", readapted(with_nan)),
    "another shape": (REFUSED, "of another shape", readapted(lambda w: {key: t[..., :1].clone() for key, t in w.items()})),
    "weights that are a pipe": (REFUSED, "no regular file", fifo("adapter_model.safetensors")),
    "a configuration that is a pipe": (REFUSED, "no regular file", fifo(ADAPTER)),
    **{f"{ADAPTER} is {content or 'empty'}": (REFUSED, "", replaced(ADAPTER, content))
       for content in ("[]", "", "5", "{}", "null", '{"peft_type": "LORA"}')},
    **{f"{key} is {to}": (REFUSED, "", setting(ADAPTER, key, to=to)) for key, values in {
        "r": (0, -1, 3, 10**9, "2", None, 2.5, True), "lora_alpha": (0, -1, "4", None, 1e300, float("nan"), True),
        "peft_type": ("IA3", None, 5), "target_modules": (5, [5]), "use_dora": (True,), "modules_to_save": (["lm_head"],),
        "rank_pattern": ({"(a+)+$": 4},), "megatron_config": ({"a": 1},), "init_lora_weights": ("pissa", "evil", [1]),
        "layer_replication": ([[0, 2]],), "trainable_token_indices": ([1],)}.items() for to in values},
}  # fmt: skip


def clip_folder(target: Path) -> Path:
    from medground_clip import network

    target.mkdir()
    network.write_tiny(target)
    return target


def reclipped(change: Callable[[dict[str, torch.Tensor]], Any]) -> Write:
    def write(folder: Path) -> None:
        file = folder / "open_clip_pytorch_model.bin"
        weights = torch.load(file, weights_only=True)
        torch.save(change(weights) or weights, file)

    return write


def sam2_folder(target: Path) -> Path:
    from medground_sam2 import models

    torch.manual_seed(0)
    models.tiny().save_pretrained(target)
    return target


def load_sam2(path: Path) -> Any:
    return registry.build("segmenter", "sam2", checkpoint=str(path), image_size=128, device="cpu")


BACKBONE = ("vision_config", "backbone_config")
SAM2: dict[str, tuple[bool, str, Write]] = {
    "as saved": (LOADED, "", lambda folder: None),
    **{name: (LOADED, "", reweighted(lambda w, rename=rename: {rename(key): tensor for key, tensor in w.items()}))
       for name, rename in WRAPPERS.items()},
    "one missing": (REFUSED, "1 missing: mask_decoder.iou_token.weight",
                    reweighted(lambda w: {key: t for key, t in w.items() if "iou_token" not in key})),
    "one more": (REFUSED, "1 unexpected: loss", reweighted(lambda w: w | {"loss": torch.ones(1)})),
    "NaN": (REFUSED, "NaN", reweighted(with_nan)),
    "the first SAM": (REFUSED, "is missing", lambda folder: save_file(toy(), folder / "model.safetensors")),
    "a block of a high number": (REFUSED, "",
                                 reweighted(lambda w: w | {"vision_encoder.backbone.blocks.999999999.x": torch.ones(1)})),
    "a block of no number": (REFUSED, "", reweighted(lambda w: w | {"vision_encoder.backbone.blocks.x.y": torch.ones(1)})),
    **{f"{key} of shape {shape}": (REFUSED, "", reweighted(
        lambda w, key=key, shape=shape: w | {key: torch.ones(shape)}))
       for key in ("vision_encoder.backbone.pos_embed_window", "vision_encoder.backbone.pos_embed",
                   "vision_encoder.backbone.blocks.0.attn.proj.weight", "prompt_encoder.mask_embed.conv2.weight",
                   "mask_decoder.mask_tokens.weight", "prompt_encoder.point_embed.weight")
       for shape in ((), (1,), (0, 0), (1, 1, 1, 1), (7, 7, 7, 7))},
    "a configuration that is a pipe": (LOADED, "", fifo("config.json")),
    **{f"config.json is {content or 'empty'}": (REFUSED, "", replaced("config.json", content))
       for content in ("", "[]", "5", '{"vision_config": 5}', "[" * 100_000)},
    **{f"{keys[-1]} is {to}": (REFUSED, "", setting("config.json", *keys, to=to))
       for keys in ((*BACKBONE, "num_attention_heads_per_stage"), (*BACKBONE, "window_size_per_stage"),
                    (*BACKBONE, "global_attention_blocks"), ("mask_decoder_config", "num_attention_heads"))
       for to in ([0], [-1] * 4, "x", 5.5, [10**9], {"a": 1}, [[1]], [3] * 4) 
       if "global" not in keys[-1] or to not in ([0], [3] * 4)},
}  # fmt: skip
CLIP = "open_clip_config.json"
CLIPS: dict[str, tuple[bool, str, Write]] = {
    "as saved": (LOADED, "", lambda folder: None),
    "compiled": (LOADED, "", reclipped(lambda w: {f"_orig_mod.{key}": tensor for key, tensor in w.items()})),
    "lightning": (LOADED, "", reclipped(lambda w: {"state_dict": {f"clip.{key}": t for key, t in w.items()}})),
    "a tensor missing": (REFUSED, "1 missing", reclipped(lambda w: dict(list(w.items())[1:]))),
    "a tensor more": (REFUSED, "1 unexpected: a", reclipped(lambda w: w | {"a": torch.ones(1)})),
    "another shape": (REFUSED, "of another shape", reclipped(lambda w: w | {"positional_embedding": torch.ones(5, 16)})),
    "NaN": (REFUSED, "NaN", reclipped(lambda w: w | {"positional_embedding": w["positional_embedding"] * float("nan")})),
    "no weights": (REFUSED, "0 files of weights", lambda folder: (folder / "open_clip_pytorch_model.bin").unlink()),
    "a bomb": (REFUSED, "", lambda folder: pickled(b"}" + nested_tuples(40) + tensor() + b"s")(
        folder / "open_clip_pytorch_model.bin")),
    "a pipe": (REFUSED, "no regular file", fifo("open_clip_pytorch_model.bin")),
    "a configuration that is a pipe": (REFUSED, "", fifo(CLIP)),
    **{f"{CLIP} is {content or 'empty'}": (REFUSED, "", replaced(CLIP, content))
       for content in ("[]", "", "5", "{}", '{"model_cfg": 5}', '{"model_cfg": {"text_cfg": [], "vision_cfg": []}}')},
    **{f"{part}.{key} is {to}": (REFUSED, "", setting(CLIP, "model_cfg", part, key, to=to))
       for part, key in (("vision_cfg", "layers"), ("vision_cfg", "width"), ("vision_cfg", "patch_size"),
                         ("text_cfg", "layers"), ("text_cfg", "width"), ("text_cfg", "vocab_size"), ("text_cfg", "heads"))
       for to in (0, -1, 10**7, 10**13, "x", None)},
    "an image size of 1e9": (REFUSED, "", setting(CLIP, "model_cfg", "vision_cfg", "image_size", to=10**9)),
    "a text tower of the hub": (REFUSED, "", setting(CLIP, "model_cfg", "text_cfg", to={"hf_model_name": "no/thing"})),
    "a deviation of words": (REFUSED, "", setting(CLIP, "preprocess_cfg", to={"std": "x"})),
}  # fmt: skip


def load_clip(folder: Path) -> Any:
    from medground_clip.network import Network

    return Network(checkpoint=str(folder), model=None, device="cpu")


def crafted(kind: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield name and what loads it, of every crafted file."""
    for number, (title, (_, _, write)) in enumerate(CRAFTED[kind].items()):
        path = (
            folder / f"{kind}-{number}{'.pth' if kind == 'pickle' else '.safetensors' if kind == 'safetensors' else ''}"
        )
        if kind in BASES:
            shutil.copytree(folder / f"{kind}-good", path)
        write(path)
        yield title, lambda path=path: LOADERS[kind](path)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def random_changes(kind: str, folder: Path, rounds: int, seed: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield name and what loads it, of good files with random changes."""
    for number in range(rounds):
        rng = random.Random(f"{kind} {seed} {number}")
        if kind in BASES:
            path = Path(shutil.copytree(folder / f"{kind}-good", folder / f"{kind}-{number}"))
            file = rng.choice(
                [file for file in sorted(path.iterdir()) if file.suffix in (".json", ".jinja", ".bin", ".safetensors")]
            )
            if file.suffix == ".json" and rng.random() < 0.8:
                file.write_text(json.dumps(mutated_json(json.loads(file.read_text()), rng)))
            else:
                change = mutated_header if file.suffix == ".safetensors" and rng.random() < 0.5 else mutated
                file.write_bytes(change(file.read_bytes(), rng))
        else:
            path = folder / f"{kind}-{number}.{'pth' if kind == 'pickle' else kind}"
            good = folder / f"good.{kind}"
            if not good.exists():
                torch.save({"model": toy()}, good) if kind == "pickle" else save_file(toy(), good)
            inner = dense if kind == "pickle" else mutated_header
            path.write_bytes((inner if rng.random() < 0.7 else mutated)(good.read_bytes(), rng))
        yield f"{kind} {seed} {number}", lambda path=path: LOADERS[kind](path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


CRAFTED = {
    "pickle": PICKLES,
    "safetensors": SAFETENSORS,
    "folder": FOLDERS,
    "adapter": ADAPTERS,
    "clip": CLIPS,
    "sam2": SAM2,
}
BASES = {"folder": vlm_folder, "adapter": adapter_folder, "clip": clip_folder, "sam2": sam2_folder}
LOADERS: dict[str, Callable[[Path], Any]] = {
    "pickle": load_sam,
    "safetensors": load_sam,
    "folder": load_vlm,
    "adapter": lambda path: load_vlm(_toy_vlm(), adapter=str(path), lora_rank=2, lora_alpha=4),
    "clip": load_clip,
    "sam2": load_sam2,
}
KINDS = tuple(CRAFTED)


def _toy_vlm() -> Path:
    from medground_qwen import factories

    return Path(factories.__file__).with_name("toy_vlm")


def computed() -> float:
    """Return the seconds that this process and its ended children have computed: what others do on the machine is not in it."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak() -> int:
    """Return the most bytes of memory this process had. `ru_maxrss` begins with those of the process that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def main(folder: Path, kind: str, rounds: int, seed: int) -> None:
    """Load every file and print what came of it."""
    from medground.errors import MedgroundError

    if kind in BASES:
        BASES[kind](folder / f"{kind}-good")
    LOADERS[kind](folder / f"{kind}-good" if kind in BASES else Path(toy_path()))  # so that imports are not counted
    for title, load in chain(crafted(kind, folder), random_changes(kind, folder, rounds, seed)):
        start, error, message = computed(), "", ""
        signal.alarm(300)
        try:
            load()
        except MedgroundError as caught:
            error, message = "refused", str(caught)
        except BaseException as caught:  # noqa: BLE001  what escapes is what is looked for
            error, message = type(caught).__name__, str(caught)
        print(json.dumps([title, error, message, computed() - start]), flush=True)
    print(json.dumps(["", "", "", peak()]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
