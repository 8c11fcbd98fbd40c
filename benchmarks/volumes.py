"""Follow three targets through a volume of 100 slices of 256 x 256: wall time, memory, encodings and Dice, by each way.

    python benchmarks/volumes.py [--slices 100] [--seed 0]

Every row is a process of its own on a DICOM series. ``copy`` and ``interpolate`` start from true masks on key slices;
``toy_sam``, the shipped small expert, from the true box on one key slice per target, slice after slice; ``medsam2`` from the
same boxes with its memory, of tiny size and random weights, built from a configuration: its masks mean nothing, its costs do.
Memory is how much the peak of the process grows while it follows, after the segmenter has answered once. `patience` None
goes through every slice.
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

ROWS = (
    ("copy", None), ("interpolate", None), ("toy_sam", None), ("toy_sam", 3), ("medsam2", None), ("medsam2", 3),
)  # fmt: skip
SIDE = 256
WINDOW = "soft_tissue"


def peak():
    """MiB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare(folder, slices, seed):
    """Write the volume as a DICOM series, and its truth."""
    from medground_toy.volumes import volume_phantom, write_series

    phantom = volume_phantom(seed, shape=(SIDE, SIDE, slices), spacing=(0.8, 0.8, 160 / slices), targets=3)
    write_series(phantom, folder / "series", seed=seed)
    np.save(folder / "labels.npy", phantom.labels)


def build(way, folder):
    """Return (volume segmenter, what counts its encodings)."""
    from medground.registry import build
    from medground.segmenters.propagation import Copy, Interpolate, PerSlice

    if way in ("copy", "interpolate"):
        return (Copy if way == "copy" else Interpolate)(), None
    if way == "toy_sam":
        segmenter = build("segmenter", "toy_sam")
        return PerSlice(segmenter), segmenter
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import sam2_volumes

    options = {"image_size": sam2_volumes.SIDE, "device": "cpu", **sam2_volumes.SIZES}
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

    from medground.geometry import mask_dice
    from medground.images.read_volume import read_volume

    torch.set_num_threads(1)
    volume, labels = read_volume(folder / "series"), np.load(folder / "labels.npy")
    segmenter, counted = build(way, folder)
    prompts = [key_slices(way, labels, number) for number in (1, 2, 3)]
    segmenter.propagate(volume, prompts[:1], plane="axial", window=WINDOW, reach=0.0)  # loads what is loaded once
    if counted:
        counted.cache = type(counted.cache)(counted.cache.max_bytes)
    before, start = peak(), time.perf_counter()
    masks = segmenter.propagate(volume, prompts, plane="axial", window=WINDOW, patience=patience)
    return {
        "seconds": time.perf_counter() - start,
        "grows_mib": peak() - before,
        "peak_mib": peak(),
        "encodes": counted.stats.misses if counted else 0,
        "dice": [float(mask_dice(mask.reshape(SIDE, -1), (labels == n).reshape(SIDE, -1))) for n, mask in enumerate(masks, 1)],
    }  # fmt: skip


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
    print(f"{options.slices} slices of {SIDE} x {SIDE}, three targets, seed {options.seed}, one thread\n")
    print("| way | patience | encodes | seconds | memory grows, MiB | peak, MiB | Dice of the three |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.slices, options.seed)
        for way, patience in ROWS:
            command = [sys.executable, __file__, "--one", way, str(patience), folder]
            row = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            dice = " ".join(f"{value:.2f}" for value in row["dice"])
            numbers = f"{row['encodes']} | {row['seconds']:.1f} | {row['grows_mib']:.0f} | {row['peak_mib']:.0f}"
            print(f"| {way} | {patience} | {numbers} | {dice} |", flush=True)


if __name__ == "__main__":
    main()
