"""One source of each kind that masks are written for."""

from pathlib import Path
from typing import Any

import numpy as np
from dicom_parts import even, header, set_pixels
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLEndoscopicImageStorage,
    VLPhotographicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)
from series_files import affine_of, enhanced, noise, saved, series

SIDES = (32, 24, 4)
"""Voxels of the volumes; pictures are 24 rows of 32 pixels."""
STUDY = {"PatientID": "P1", "PatientName": "One^Two", "PatientSex": "F", "StudyDate": "20200102", "StudyID": "1",
         "PatientBirthDate": "", "StudyTime": "1011", "AccessionNumber": ""}  # fmt: skip


def picture(sop_class: str, modality: str, frames: int = 1, *, colour: bool = True, **fields: Any) -> Dataset:
    """An image without a place in the patient, 8 bits, RGB or grey, with a bright block."""
    rows = np.full((frames, SIDES[1], SIDES[0], 3 if colour else 1), 40, np.uint8)
    rows[:, 6:15, 8:20] = 210
    rows += np.arange(frames, dtype=np.uint8)[:, None, None, None]
    dataset = header(
        ExplicitVRLittleEndian, sop_class, modality, **STUDY, StudyInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(), Rows=rows.shape[1], Columns=rows.shape[2], SamplesPerPixel=rows.shape[3],
        PhotometricInterpretation="RGB" if colour else "MONOCHROME2", BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelRepresentation=0, **({"PlanarConfiguration": 0} if colour else {}),
        **({"NumberOfFrames": frames} if frames > 1 else {}), **fields,
    )  # fmt: skip
    set_pixels(dataset, even(rows.tobytes()), "OB")
    return dataset


def write_source(kind: str, folder: Path) -> Path:
    """Write a source of a kind of the table in docs/volumes.md: a file or a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "source.dcm"
    volume = {"affine": affine_of(np.eye(3)), "values": noise(SIDES)}
    if kind == "PNG, JPEG, TIFF":
        path = folder / "source.png"
        Image.fromarray(np.full((SIDES[1], SIDES[0], 3), 90, np.uint8)).save(path)
    elif kind.endswith("CT, MR or PET"):
        saved(series(**volume, **STUDY), folder)
        path = folder / "000.dcm" if kind.startswith("a slice") else folder
    elif "NIfTI" in kind:
        import nibabel

        path = folder / "source.nii"
        image = nibabel.Nifti1Image(volume["values"], np.diag([-1, -1, 1, 1]) @ volume["affine"])
        image.set_sform(image.affine, code=1)
        nibabel.save(image, path)
    else:
        _dicom(kind, volume).save_as(path, enforce_file_format=True)
    return path


def _dicom(kind: str, volume: dict[str, Any]) -> Dataset:
    if kind == "an enhanced multi-frame file":
        dataset = enhanced(volume["values"], volume["affine"])
        for keyword, value in {**STUDY, "StudyInstanceUID": generate_uid()}.items():
            setattr(dataset, keyword, value)
        return dataset
    if kind.startswith("radiograph"):
        return picture(ComputedRadiographyImageStorage, "CR", colour=False, ImagerPixelSpacing=["0.2", "0.3"])
    if kind == "ultrasound, endoscopy":
        return picture(UltrasoundImageStorage, "US")
    if kind == "endoscopy":
        return picture(VLEndoscopicImageStorage, "ES")
    if kind == "a frame of a film without places":
        return picture(UltrasoundMultiFrameImageStorage, "US", 5)
    if kind.startswith("photograph"):
        return picture(VLPhotographicImageStorage, "XC")
    if kind == "pathology slide":
        sides = {"TotalPixelMatrixColumns": SIDES[0], "TotalPixelMatrixRows": SIDES[1]}
        return picture(VLWholeSlideMicroscopyImageStorage, "SM", **sides)
    raise AssertionError(kind)
