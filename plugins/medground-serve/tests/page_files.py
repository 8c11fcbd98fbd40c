"""Files that the tests of the page open."""

from pathlib import Path

import numpy as np
from medground_toy.volumes import volume_phantom, write_series
from PIL import Image


def picture(path: Path) -> Path:
    """Write a dark picture with a bright disc at (200, 96) of radius 20, and return its path."""
    y, x = np.mgrid[:240, :320]
    disc = (x - 200) ** 2 + (y - 96) ** 2 < 400
    Image.fromarray((50 + 150 * disc).astype(np.uint8)).save(path)
    return path


def series(folder: Path) -> list[Path]:
    """Write a DICOM series of six slices with bright ellipsoids, and return its files, which are in no order."""
    write_series(volume_phantom(4, shape=(64, 64, 6), spacing=(1.0, 1.0, 8.0), targets=2), folder)
    return sorted(folder.glob("*.dcm"))


def film(path: Path) -> Path:
    """Write an ultrasound film of four frames of one grey each, 40, 80, 120 and 160, and return its path."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    frames = np.repeat(np.array([40, 80, 120, 160], np.uint8), 40 * 50)
    fields = {
        "SOPClassUID": UltrasoundMultiFrameImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "Modality": "US", "NumberOfFrames": 4,
        "Rows": 40, "Columns": 50, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 8,
        "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "PixelData": frames.tobytes(),
    }  # fmt: skip
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path
