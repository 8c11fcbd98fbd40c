"""Follow targets through volumes of slices of 256 x 256 by each way: encodings, time, memory, and agreement with the truth.

    python benchmarks/volumes.py [--slices 100] [--seed 0]

Every row is a process of its own on a DICOM series; no two slices are equal. ``copy`` and ``interpolate`` start from true masks
on key slices; ``toy_sam`` and ``mini_sam``, the experts that are shipped, from the true box on one key slice per target, slice
after slice; ``medsam2`` from the same boxes with its memory, of tiny size and random weights, built from a configuration: its
masks mean nothing, its costs do. Key slices differ from target to target. Memory is how much the peak of the process grows
while it follows, after the segmenter has answered once; caches are bounded at 128 MiB. `patience` None visits every slice.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WAYS = (
    ("copy", None), ("interpolate", None), ("toy_sam", None), ("mini_sam", None), ("mini_sam", 3), ("medsam2", None),
)  # fmt: skip
SHAPES = ((3, 50), (3, 200), (1, 100), (6, 100))
"""(targets, slices) of the second table, beside 3 and 100."""
SIDE = 256
WINDOW = "soft_tissue"
CACHE_MIB = 128


def peak():
    """MiB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare(folder, slices, targets, seed):
    """Write a volume as a DICOM series, and its truth. The air around the body is noise, so that all slices differ."""
    from medground_toy.volumes import volume_phantom, write_series

    phantom = volume_phantom(seed, shape=(SIDE, SIDE, slices), spacing=(0.8, 0.8, 160 / slices), targets=targets)
    air = phantom.voxels < -500
    phantom.voxels[air] += np.random.default_rng(seed).integers(0, 1200, int(air.sum()), dtype=np.int16)
    write_series(phantom, folder / "series", seed=seed)
    np.save(folder / "labels.npy", phantom.labels)


def build(way, folder):
    """Return (volume segmenter, what counts its encodings)."""
    from medground.registry import build
    from medground.segmenters.propagation import Copy, Interpolate, PerSlice

    if way in ("copy", "interpolate"):
        return (Copy if way == "copy" else Interpolate)(), None
    if way in ("toy_sam", "mini_sam"):
        segmenter = build("segmenter", way, cache_mib=CACHE_MIB, device="cpu")
        return PerSlice(segmenter), segmenter
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import sam2_volumes

    options = {"image_size": sam2_volumes.SIDE, "device": "cpu", "cache_mib": CACHE_MIB, **sam2_volumes.SIZES}
    segmenter = build("segmenter", "medsam2", checkpoint=str(sam2_volumes.save_weights(folder)), **options)
    return segmenter, segmenter


def key_slices(way, labels, number):
    """Return the prompts of one target: true masks of its first, middle and last slice, or the box of its middle one."""
    from medground.geometry import mask_box
    from medground.types import Mask, SpatialPrompt

    mask = labels == number
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    middle = int(slices[len(slices) // 2])
    if way == "copy":
        return {middle: Mask(data=mask[:, :, middle].T)}
    if way == "interpolate":
        return {int(index): Mask(data=mask[:, :, index].T) for index in (slices[0], middle, slices[-1])}
    return {middle: SpatialPrompt(box=mask_box(mask[:, :, middle].T))}


def one(way, patience, folder):
    """Measure one row."""
    import torch

    from medground.evaluation.volumes import volume_metrics
    from medground.images.read_volume import read_volume

    torch.set_num_threads(1)
    volume, labels = read_volume(folder / "series"), np.load(folder / "labels.npy")
    pictures = {volume.slice("axial", k, window=WINDOW).pixels.tobytes() for k in range(volume.shape[2])}
    assert len(pictures) == volume.shape[2], "two slices are equal"
    del pictures
    segmenter, counted = build(way, folder)
    prompts = [key_slices(way, labels, number) for number in range(1, int(labels.max()) + 1)]
    segmenter.propagate(volume, prompts[:1], plane="axial", window=WINDOW, reach=0.0)  # loads what is loaded once
    if counted:
        counted.cache = type(counted.cache)(counted.cache.max_bytes)
    before, start = peak(), time.perf_counter()
    masks = segmenter.propagate(volume, prompts, plane="axial", window=WINDOW, patience=patience)
    seconds, grown, most = time.perf_counter() - start, peak() - before, peak()
    metrics = (
        [volume_metrics(mask, labels == n, volume.spacing) for n, mask in enumerate(masks, 1)]
        if way != "medsam2"
        else []
    )
    return {
        "encodes": counted.stats.misses if counted else 0, "seconds": seconds, "grows_mib": grown, "peak_mib": most,
        "kept_mib": counted.stats.bytes / 2**20 if counted else 0, "metrics": metrics,
    }  # fmt: skip


def measured(way, patience, folder):
    """Return a row, measured by a process of its own."""
    command = [sys.executable, __file__, "--one", way, str(patience), str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def costs(row):
    return f"{row['encodes']} | {row['seconds']:.1f} | {row['grows_mib']:.0f} | {row['kept_mib']:.0f} | {row['peak_mib']:.0f}"


def agreement(row):
    """Return Dice, surface Dice and HD95 of every target; of random weights none."""
    if not row["metrics"]:
        return "- | - | -"
    columns = zip(*(one.values() for one in row["metrics"]), strict=True)
    digits = (2, 2, 1)
    words = [
        " ".join("none" if value is None else f"{value:.{count}f}" for value in column)
        for column, count in zip(columns, digits, strict=True)
    ]
    return " | ".join(words)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "PATIENCE", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, patience, folder = options.one
        print(json.dumps(one(way, None if patience == "None" else int(patience), Path(folder))))
        return
    names = "encodes | seconds | memory grows, MiB | of it cache, MiB | peak, MiB"
    print(f"{options.slices} slices of {SIDE} x {SIDE}, three targets, seed {options.seed}, one thread\n")
    print(f"| way | patience | {names} | Dice | surface Dice 2 mm | HD95, mm |\n|{'---|' * 10}")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.slices, 3, options.seed)
        for way, patience in WAYS:
            row = measured(way, patience, folder)
            print(f"| {way} | {patience} | {costs(row)} | {agreement(row)} |", flush=True)
    print(f"\n| way | targets | slices | {names} |\n|{'---|' * 8}")
    for targets, slices in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), slices, targets, options.seed)
            for way in ("mini_sam", "medsam2"):
                print(f"| {way} | {targets} | {slices} | {costs(measured(way, None, folder))} |", flush=True)


if __name__ == "__main__":
    main()
