"""Train the small SAM that comes with the package, on drawn phantoms only.

    python -m medground_toy.phantoms --out phantoms -n 4000 --seed 1
    python -m medground_sam.train_toy phantoms --out toy_sam.safetensors --steps 1800

A folder of samples holds ``manifest.jsonl`` (one line per mask: ``image`` and ``mask``, paths in the folder) and the
pictures it names. Half an hour on one CPU core; the result is a published-layout SAM in float16.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PIL
from torch import nn
from torch.nn import functional as F

from medground.segmenters.weights import read_weights
from medground_sam.contract import contract, prepare
from medground_sam.layout import Sizes, to_original
from medground_sam.networks import TransformersNetwork

SIZES = Sizes(
    image=128,
    patch=8,
    width=128,
    depth=4,
    heads=4,
    mlp=512,
    window=8,
    global_blocks=(1, 3),
    prompt=64,
    mask_channels=16,
    masks=3,
    decoder_depth=2,
    decoder_mlp=256,
    decoder_downsample=2,
    iou_hidden=64,
)
IMAGES, PROMPTS = 8, 3
"""Images per step, and prompts per image."""
Scene = tuple[PIL.Image, list[PIL.Image]]
"""A picture and the masks of its targets, at their own size."""


def read_scenes(folders: Sequence[Path]) -> list[Scene]:
    """Every picture of some folders of samples, with its masks."""
    scenes: list[Scene] = []
    for folder in folders:
        masks: dict[str, list[str]] = defaultdict(list)
        for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            masks[sample["image"]].append(sample["mask"])
        for image, mine in masks.items():
            scenes.append((_open(folder / image, "RGB"), [_open(folder / mask, "L") for mask in mine]))
    return scenes


def _open(path: Path, mode: str) -> PIL.Image:
    with PIL.open(path) as image:
        return image.convert(mode)


def fresh(network: TransformersNetwork) -> None:
    """Fill with PyTorch's own initial values: those of a fresh SamModel leave the encoder dead."""
    for module in network.module.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm | nn.Embedding):
            module.reset_parameters()
    nn.init.trunc_normal_(network.encoder.pos_embed, std=0.02)
    nn.init.normal_(network.module.shared_image_embedding.positional_embedding)


def view(
    scenes: Sequence[Scene], rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]] | None:
    """A random crop of a random picture, turned and recoloured: input ``[3, S, S]``, mask coverages ``[S/2, S/2]``."""
    image, masks = scenes[rng.integers(len(scenes))]
    turn = PIL.Transpose(int(rng.integers(7))) if rng.random() < 0.7 else None
    if turn is not None:
        image, masks = image.transpose(turn), [mask.transpose(turn) for mask in masks]
    bounds = masks[rng.integers(len(masks))].getbbox()
    if bounds is None:
        return None
    box = _crop(bounds, image.size, rng)
    longest = max(box[2] - box[0], box[3] - box[1])

    def cut(picture: PIL.Image, side: int) -> NDArray[np.uint8]:
        size = [max(1, round((box[axis + 2] - box[axis]) / longest * side)) for axis in (0, 1)]
        return np.asarray(picture.resize(size, PIL.Resampling.BILINEAR, box=box))

    if rng.random() < 0.06:  # a picture that says nothing: the prompt alone must do
        image = scenes[rng.integers(len(scenes))][0].resize(image.size)
    pixels = prepare(contract("sam", "native"), _recolour(cut(image, SIZES.image), rng), SIZES.image)
    coverages = []
    for mask in masks:
        small = cut(mask, SIZES.image // 2) / np.float32(255)
        coverage = np.zeros((SIZES.image // 2,) * 2, np.float32)
        coverage[: small.shape[0], : small.shape[1]] = small
        if (coverage > 0.5).sum() >= 6:
            coverages.append(coverage)
    return (pixels, coverages) if coverages else None


def _crop(bounds: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A rectangle of the picture around `bounds`: most often the whole, else down to twice the target."""
    if rng.random() < 0.5:
        return 0.0, 0.0, float(size[0]), float(size[1])
    sides = []
    for axis in (0, 1):
        least = min(size[axis], 1.3 * (bounds[axis + 2] - bounds[axis]) + 8)
        side = max(least, size[axis] * rng.uniform(0.35, 1.0))
        low = max(0.0, bounds[axis + 2] - side)
        start = rng.uniform(low, max(low, min(float(bounds[axis]), size[axis] - side)))
        sides.append((start, min(start + side, float(size[axis]))))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    values = image.astype(np.float32) / 255
    if rng.random() < 0.15:
        values = 1 - values
    if rng.random() < 0.5:
        values = values ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.5:
        values = values * rng.uniform(0.6, 1.2, 3 if rng.random() < 0.3 else 1) + rng.uniform(-0.1, 0.2)
    if rng.random() < 0.3:
        values = values[..., rng.permutation(3)]
    if rng.random() < 0.2:
        values = values.mean() + (values - values.mean()) * rng.uniform(0.1, 0.8)
    if rng.random() < 0.3:
        values = values + rng.normal(0, rng.uniform(0, 0.06), values.shape)
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def prompts(
    coverage: NDArray[np.float32], kind: str, points: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None, NDArray[np.float32] | None]:
    """One prompt of a kind for a mask, in input pixels: points ``[K, 2]``, labels ``[K]``, box ``[4]``."""
    ys, xs = np.nonzero(coverage > 0.5)
    box = clicks = labels = None
    if kind != "points":
        corners = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32) * 2
        spread = np.array([corners[2] - corners[0], corners[3] - corners[1]] * 2, np.float32)
        box = (corners + rng.uniform(-0.12, 0.12, 4) * spread).astype(np.float32)
    if kind != "box":
        inside = np.argwhere(coverage > min(0.99, float(coverage.max()) - 1e-3))
        chosen = inside[rng.integers(len(inside), size=points)]
        labels = np.ones(points, np.int64)
        if points > 1 and rng.random() < 0.2:
            outside = np.argwhere(coverage < 0.01)
            chosen[-1], labels[-1] = outside[rng.integers(len(outside))], 0
        clicks = ((chosen[:, ::-1] + rng.uniform(0, 1, (points, 2))) * 2).astype(np.float32)
    return clicks, labels, box


def batches(
    scenes: Sequence[Scene], rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor | None, ...]]]:
    """Endless pixels ``[B, 3, S, S]``, coverage ``[B * PROMPTS, S/2, S/2]`` and prompts, one kind per batch."""
    while True:
        pixels: list[NDArray[np.float32]] = []
        truths: list[NDArray[np.float32]] = []
        while len(pixels) < IMAGES:
            one = view(scenes, rng)
            if one is not None:
                pixels.append(one[0])
                start = int(rng.integers(len(one[1])))
                truths += [one[1][(start + turn) % len(one[1])] for turn in range(PROMPTS)]
        kind, points = str(rng.choice(["box", "points", "joint"], p=[0.5, 0.25, 0.25])), int(rng.integers(1, 4))
        rows = [prompts(coverage, kind, points, rng) for coverage in truths]
        columns = [
            None if column[0] is None else torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)
        ]
        yield torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(truths)), tuple(columns)


def loss(logits: torch.Tensor, iou: torch.Tensor, coverage: torch.Tensor) -> torch.Tensor:
    """Dice and cross-entropy of the best of the masks ``[P, C, h, w]``, a little of all, and the IoU head's error."""
    truth = coverage[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    soft = logits.sigmoid()
    dice = 1 - (2 * (soft * truth).sum((2, 3)) + 1) / (soft.sum((2, 3)) + truth.sum((2, 3)) + 1)
    errors = dice + 4 * entropy
    with torch.no_grad():
        hard, real = logits > 0, truth > 0.5
        overlap = (hard & real).sum((2, 3)) / (hard | real).sum((2, 3)).clamp(min=1)
    return 0.7 * errors.min(1).values.mean() + 0.3 * errors.mean() + F.mse_loss(iou, overlap)


def train(
    scenes: Sequence[Scene], *, steps: int, seed: int, rate: float, start: Path | None = None
) -> TransformersNetwork:
    """A network trained for a number of steps, from `start` or from nothing; its weights are averaged over the last."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = TransformersNetwork(SIZES)
    fresh(network)
    if start is not None:
        network.load({name: tensor.float() for name, tensor in read_weights(start).items()}, start.name)
    network.module.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.module.parameters(), lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.08)
    average = torch.optim.swa_utils.AveragedModel(
        network.module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=False
    )
    image_of = torch.arange(IMAGES).repeat_interleave(PROMPTS)
    started, running = time.monotonic(), 0.0
    for step, (pixels, coverage, columns) in zip(range(1, steps + 1), batches(scenes, rng), strict=False):
        logits, iou = network.decode(network.encode(pixels), image_of, columns, multimask=True)
        value = loss(logits, iou, coverage)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network.module)
        running += (value.item() - running) / min(step, 50)
        if step % 50 == 0 or step == steps:
            sys.stderr.write(f"step {step}/{steps} loss {running:.4f} {time.monotonic() - started:.0f} s\n")
    network.module.load_state_dict(average.module.state_dict())
    return network


def save(network: TransformersNetwork, path: Path, note: str) -> None:
    """Write the weights under their published names, in float16."""
    from safetensors.torch import save_file

    state = {name: tensor for name, tensor in network.module.state_dict().items() if "shared_embedding" not in name}
    half = {to_original(name): tensor.detach().half().contiguous() for name, tensor in state.items()}
    save_file(half, path, metadata={"format": "pt", "note": note})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m medground_sam.train_toy", description="Train the small SAM.")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of samples with manifest.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    chosen = parser.parse_args(arguments)
    scenes = read_scenes(chosen.folders)
    network = train(scenes, steps=chosen.steps, seed=chosen.seed, rate=chosen.rate, start=chosen.start)
    save(network, chosen.out, f"trained on {len(scenes)} drawn phantoms only, {chosen.steps} steps, seed {chosen.seed}")
    sys.stderr.write(f"{chosen.out}: {chosen.out.stat().st_size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
