"""Draw the example images of the page again: ``python plugins/medground-serve/draw_examples.py``.

They are phantoms of medground_toy: nobody's scan. The volume is small, and coarse in its values, so that the wheel stays small.
"""

from pathlib import Path

import nibabel
import numpy as np
from medground_toy.phantoms import phantom
from medground_toy.volumes import volume_phantom
from PIL import Image
from scipy.ndimage import gaussian_filter

PAGE = Path(__file__).parent / "medground_serve" / "page"
SEED, SIDE, THUMBNAIL, COARSE = 3, 384, 96, 16
WINDOW = (-160, 240)
"""Hounsfield units that the volume asks to be shown by."""


def main() -> None:
    """Write ``ct.jpg``, ``ultrasound.jpg``, ``fundus.jpg`` and ``volume.nii.gz`` with a picture of its middle slice."""
    for family in ("ct", "ultrasound", "fundus"):
        drawn = Image.fromarray(phantom(family, SEED, size=(SIDE, SIDE)).image)
        drawn.save(PAGE / f"{family}.jpg", quality=80, optimize=True)
    volume = volume_phantom(SEED, shape=(112, 112, 36), spacing=(0.9, 0.9, 2.5))
    smooth = gaussian_filter(volume.voxels.astype(float), 0.6)
    voxels = (np.round(smooth / COARSE) * COARSE).astype(np.int16)
    voxels[smooth < -900] = -1000
    image = nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine)
    image.header["cal_min"], image.header["cal_max"] = WINDOW
    nibabel.save(image, PAGE / "volume.nii.gz")
    low, high = WINDOW
    middle = np.clip((voxels[:, :, 18].T - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    Image.fromarray(middle).resize((THUMBNAIL, THUMBNAIL)).save(PAGE / "volume.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
