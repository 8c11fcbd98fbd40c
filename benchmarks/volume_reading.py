"""Read volumes of 60 orientations against SimpleITK, and measure the memory of reading.

    python benchmarks/volume_reading.py [--sides 512 512 100]

prints a line per orientation (the codes of the voxel axes, the largest difference of a value and of a place for a DICOM series,
NIfTI and NRRD), then the peak memory that one slice and one pass over all slices take, per format.
"""

import argparse
import itertools
import tempfile
import time
import tracemalloc
from functools import partial
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import SimpleITK
from medground_toy.volumes import VolumePhantom, write_nifti, write_series

from medground.images.read_volume import read_volume

SPACING = np.array((0.6, 0.8, 2.5))
ORIGIN = (-12.5, 33.25, 7.0)


def rotations():
    """The 48 orientations, then 12 oblique ones."""
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[list(order), range(3)] = signs
        yield matrix
    for seed in range(12):
        matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
        yield matrix


def affine_of(rotation):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * SPACING, ORIGIN
    return affine


def phantom_of(voxels, affine):
    return VolumePhantom(voxels=voxels, affine=affine, targets=(), labels=np.zeros(voxels.shape, np.uint8))


def write_nrrd(phantom, path, encoding="gzip"):
    header = {"space": "left-posterior-superior", "space directions": phantom.affine[:3, :3].T}
    nrrd.write(str(path), phantom.voxels, {**header, "space origin": phantom.affine[:3, 3], "encoding": encoding})


def differences(path):
    """(codes, the largest difference of values, and of places in mm) from SimpleITK over all voxels."""
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
    image, volume = SimpleITK.ReadImage(names), read_volume(path)
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    places = np.array([image.TransformIndexToPhysicalPoint([int(side) for side in one]) for one in index])
    values = np.abs(SimpleITK.GetArrayFromImage(image).T.astype(float) - volume.array()).max()
    return volume.codes, values, np.linalg.norm(volume.to_mm(index) - places, axis=1).max()


def orientations(folder):
    worst = np.zeros(6)
    for number, rotation in enumerate(rotations()):
        dice = np.random.default_rng(number)
        phantom = phantom_of(dice.integers(-1000, 3000, (7, 6, 5)).astype(np.int16), affine_of(rotation))
        write_series(phantom, folder / str(number), seed=number)
        write_nifti(phantom, folder / "v.nii.gz")
        write_nrrd(phantom, folder / "v.nrrd")
        rows = [differences(path) for path in (folder / str(number), folder / "v.nii.gz", folder / "v.nrrd")]
        figures = [figure for _, *pair in rows for figure in pair]
        worst = np.maximum(worst, figures)
        words = "   ".join(f"{codes} {value:g} {place:.1e}" for codes, value, place in rows)
        print(f"{number + 1:3} {'oblique' if number >= 48 else '':8} {words}")
    print(f"worst (value, mm) of series, NIfTI, NRRD: {' '.join(f'{figure:.1e}' for figure in worst)}")


def memory(folder, sides):
    phantom = phantom_of(np.random.default_rng(0).integers(-1000, 3000, sides).astype(np.int16), affine_of(np.eye(3)))
    write_series(phantom, folder / "series")
    write_nrrd(phantom, folder / "v.nrrd", "raw")
    write_nrrd(phantom, folder / "z.nrrd")
    for name in ("v.nii", "z.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(phantom.voxels, np.diag([-1, -1, 1, 1]) @ phantom.affine), folder / name)
    size = phantom.voxels.nbytes
    del phantom
    print(
        f"\n{' x '.join(map(str, sides))} voxels of int16: {size / 2**20:.1f} MiB, a slice {size / sides[2] / 2**20:.2f} MiB"
    )
    for name in ("series", "v.nii", "z.nii.gz", "v.nrrd", "z.nrrd"):
        volume = measured(f"{name:10} read", lambda path=folder / name: read_volume(path))
        steps = {
            "one axial slice": lambda one: one.slice("axial", sides[2] // 2),
            "one coronal slice": lambda one: one.slice("coronal", sides[1] // 2),
            "all planes, in one pass": lambda one: [plane.mean() for plane in one.voxels.planes()],
            "array()": lambda one: one.array(),
        }
        for words, step in steps.items():
            measured(f"{name:10} {words}", partial(step, volume))


def measured(words, step):
    """Print the peak memory and the time of a step; return what it returns."""
    tracemalloc.start()
    start = time.perf_counter()
    result = step()
    seconds = time.perf_counter() - start
    print(f"{words:36} peak {tracemalloc.get_traced_memory()[1] / 2**20:7.2f} MiB   {seconds:6.2f} s")
    tracemalloc.stop()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs=3, default=(512, 512, 100))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        orientations(Path(folder))
        memory(Path(folder), tuple(chosen.sides))


if __name__ == "__main__":
    main()
