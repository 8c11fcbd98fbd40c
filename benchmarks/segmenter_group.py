"""Measure the cost of a group of G rollouts for a segmenter, with one encoding per sample or one in all.

    python benchmarks/segmenter_group.py [NAME ...] [--out report.md]

Full-size networks with random weights, written as published checkpoints and loaded by the components themselves.
Operations (2 per multiply-add) are counted by torch while the calls run, encoder calls by forward hooks, and the joint
prompt at G = 16 is timed both ways: per sample (set the image and decode one prompt, sixteen times) and all at once.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from medground.geometry import Box, Point
from medground.types import SpatialPrompt

SIZE = (600, 800)
GROUPS = (1, 8, 16)


class Subject(NamedTuple):
    """A component to measure."""

    name: str
    write: Callable[[Path], Path]
    """Write a checkpoint of random weights into a folder."""
    build: Callable[..., Any]
    """``build(checkpoint=..., cache_mib=...)`` returns the segmenter."""
    encoder: Callable[[Any], torch.nn.Module]
    """The segmenter's image encoder, to count its calls."""


def _write_sam(**different: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from medground_sam.layout import Sizes, to_original
        from medground_sam.networks import TransformersNetwork
        from medground_sam.train_toy import fresh

        base = dict(
            image=1024, patch=16, width=768, depth=12, heads=12, mlp=3072, window=14, global_blocks=(2, 5, 8, 11),
            prompt=256, mask_channels=16, masks=3, decoder_depth=2, decoder_mlp=2048, decoder_downsample=2,
            iou_hidden=256,
        )  # fmt: skip
        torch.manual_seed(0)
        network = TransformersNetwork(Sizes(**(base | different)))
        fresh(network)
        state = {
            to_original(name): value for name, value in network.module.state_dict().items() if ".shared_" not in name
        }
        torch.save(state, folder / "random.pth")
        return folder / "random.pth"

    return write


def _sam(component: str) -> Callable[..., Any]:
    def build(**arguments: Any) -> Any:
        import medground_sam

        return getattr(medground_sam, component)(**arguments)

    return build


def _sam_encoder(segmenter: Any) -> torch.nn.Module:
    return segmenter.codec.network.encoder


def _write_sam2(folder: Path) -> Path:
    """SAM 2.1 tiny, which is MedSAM2's network too."""
    from medground_sam2.layout import Architecture
    from medground_sam2.models import sam2_config, to_original
    from transformers import Sam2Model

    sizes = Architecture(
        stages=(1, 2, 7, 2), widths=(96, 192, 384, 768), heads=(1, 2, 4, 8), windows=(8, 4, 14, 7),
        global_blocks=(5, 7, 9), background=(7, 7), hidden=256, mask_channels=16, decoder_layers=2, decoder_mlp=2048,
        decoder_heads=8, decoder_downsample=2, masks=3, iou_hidden=256,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.save({"model": to_original(Sam2Model(sam2_config(sizes, 1024)).state_dict())}, folder / "random.pt")
    return folder / "random.pt"


def _sam2(component: str) -> Callable[..., Any]:
    def build(**arguments: Any) -> Any:
        import medground_sam2

        return getattr(medground_sam2, component)(**arguments)

    return build


def _sam2_encoder(segmenter: Any) -> torch.nn.Module:
    encoder: torch.nn.Module = segmenter.network.model.vision_encoder
    return encoder


SUBJECTS = [
    Subject("SAM ViT-B 1024", _write_sam(), _sam("Sam"), _sam_encoder),
    Subject(
        "SAM-Med2D 256",
        _write_sam(image=256, adapters=tuple(range(12)), adapter_hidden=192),
        _sam("SamMed2D"),
        _sam_encoder,
    ),
    Subject("Hiera-tiny 512 (MedSAM2)", _write_sam2, _sam2("MedSam2"), _sam2_encoder),
    Subject("Hiera-tiny 1024 (SAM 2.1)", _write_sam2, _sam2("Sam2"), _sam2_encoder),
]


def prompts(kind: str, count: int) -> list[SpatialPrompt]:
    """Return the prompts of `count` rollouts: one kind, each a little different."""
    rng = np.random.default_rng(count)
    height, width = SIZE
    made = []
    for _ in range(count):
        left, top = rng.uniform(0.1, 0.3, 2) * (width, height)
        box = Box(left, top, left + width * 0.4, top + height * 0.4)
        clicks = (Point(left + width * 0.1, top + height * 0.2), Point(left + width * 0.3, top + height * 0.25))
        made.append(SpatialPrompt(box=None if kind == "points" else box, points=() if kind == "box" else clicks))
    return made


def counted(work: Callable[[], Any]) -> float:
    """Return the GFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def measure(subject: Subject) -> list[str]:
    """Return the lines of the report about one subject."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = str(subject.write(Path(folder)))
        once, each = (subject.build(checkpoint=path, cache_mib=bound) for bound in (512, 0))
    calls = {"once": 0, "each": 0}

    def count(who: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[who] += 1

        return hook

    subject.encoder(once).register_forward_hook(count("once"))
    subject.encoder(each).register_forward_hook(count("each"))

    # The timed runs come first, and each encodes for the first time.
    started = time.perf_counter()
    once.segment(image, prompts("joint", 16))
    together = time.perf_counter() - started
    started = time.perf_counter()
    for prompt in prompts("joint", 16):
        each.segment(image, [prompt])
    apart = time.perf_counter() - started
    lines = [
        f"### {subject.name}",
        "",
        f"Joint prompt, G = 16, timed once: per sample {apart:.1f} s and {calls['each']} encodes, "
        f"once {together:.1f} s and {calls['once']} encode: **{apart / together:.1f} times less**.",
        "",
        "| prompt | G | per sample, GFLOP | encodes | once, GFLOP | encodes | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    both = counted(lambda: each.segment(image, prompts("box", 1)))
    before = calls["once"]
    for kind in ("box", "points", "joint"):
        decode = {size: counted(lambda: once.segment(image, prompts(kind, size))) for size in GROUPS}  # noqa: B023
        if kind == "box":
            encode = both - decode[1]
        for size in GROUPS:
            per_sample, shared = size * (encode + decode[1]), encode + decode[size]
            lines.append(
                f"| {kind} | {size} | {per_sample:.0f} | {size} | {shared:.0f} | 1 | {per_sample / shared:.1f} |"
            )
    lines += [
        "",
        f"Encoding costs {encode:.0f} GFLOP. The nine groups above are of one image, asked after the timed one: "
        f"{calls['once'] - before} further encodes, hit rate {once.stats.hit_rate:.0%}.",
        "",
    ]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which subjects (default: all)")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    lines = [
        "# A group of rollouts, one encoding",
        "",
        f"`python benchmarks/segmenter_group.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()} CPU, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, float32, image {SIZE[0]} x {SIZE[1]}, "
        "full-size networks with random weights. Other work shared the machine: read the ratios, not the seconds.",
        "",
    ]
    for subject in SUBJECTS:
        if not chosen.names or subject.name in chosen.names:
            lines += measure(subject)
            print("\n".join(lines), flush=True)
    if chosen.out:
        chosen.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
