"""DICOM segmentations as masks: each frame belongs to the slice and the segment that it refers to, whatever its place."""

import json

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")

from dicom_parts import header, item, nested, set_pixels, words
from medground_data.readers import read_source
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage

from medground.data.source_samples import SourceSample
from medground.errors import InputError, ViewError
from medground.images.read import read_mask

SIZE = (5, 7)  # 35 bits: frames begin within a byte
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"


def region(number):
    """A mask that tells its number."""
    mask = np.zeros(SIZE, bool)
    mask.ravel()[: number + 1] = True
    return mask


def save(path, dataset):
    dataset.save_as(path, enforce_file_format=True)
    return path


def slice_of(position, *, frames=1, orientation=(1, 0, 0, 0, 1, 0)):
    dataset = header(
        ExplicitVRLittleEndian, CTImageStorage, "CT", PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=1,
        Rows=SIZE[0], Columns=SIZE[1], BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=0,
        ImagePositionPatient=[0, 0, position], ImageOrientationPatient=list(orientation), PixelSpacing=[1, 1],
    )  # fmt: skip
    if frames > 1:
        dataset.NumberOfFrames = frames
        del dataset.ImagePositionPatient
    set_pixels(dataset, words(np.arange(frames * 35), ExplicitVRLittleEndian, 16), "OW")
    return dataset


def segmentation(frames, images, *, labels=("liver", "cyst"), kind="BINARY", orientation=(1, 0, 0, 0, 1, 0)):
    """A segmentation of (mask, segment, image, its frame or None) frames, in that order."""
    bits = 1 if kind == "BINARY" else 8
    dataset = header(
        ExplicitVRLittleEndian, LABELMAP if kind == "LABELMAP" else SegmentationStorage, "SEG",
        PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=1, Rows=SIZE[0], Columns=SIZE[1], BitsAllocated=bits,
        BitsStored=bits, HighBit=bits - 1, PixelRepresentation=0, NumberOfFrames=len(frames), SegmentationType=kind,
    )  # fmt: skip
    dataset.SegmentSequence = Sequence(
        item(SegmentNumber=number, SegmentLabel=label) for number, label in enumerate(labels, start=1)
    )
    dataset.ReferencedSeriesSequence = nested(
        ReferencedInstanceSequence=Sequence(item(ReferencedSOPInstanceUID=image.SOPInstanceUID) for image in images)
    )
    dataset.SharedFunctionalGroupsSequence = nested(
        PlaneOrientationSequence=nested(ImageOrientationPatient=list(orientation)),
        PixelMeasuresSequence=nested(PixelSpacing=[1, 1]),
    )
    groups = []
    for _, segment, image, number in frames:
        source = item(ReferencedSOPInstanceUID=image.SOPInstanceUID)
        if number is not None:
            source.ReferencedFrameNumber = number
        group = item(DerivationImageSequence=nested(SourceImageSequence=Sequence([source])))
        if kind != "LABELMAP":
            group.SegmentIdentificationSequence = nested(ReferencedSegmentNumber=segment)
        if "ImagePositionPatient" in image:
            group.PlanePositionSequence = nested(ImagePositionPatient=image.ImagePositionPatient)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    pixels = words(np.stack([mask for mask, *_ in frames]), ExplicitVRLittleEndian, bits)
    set_pixels(dataset, pixels, "OB")
    return dataset


@pytest.fixture
def series(tmp_path):
    """Three slices and a segmentation of two segments, frames in another order than slices, the first slice left out."""
    images = [slice_of(position) for position in (0, 2, 4)]
    paths = [save(tmp_path / f"{number}.dcm", image) for number, image in enumerate(images)]
    frames = [(region(5), 2, images[2], None), (region(9), 1, images[2], None), (region(3), 1, images[1], None)]
    return paths, save(tmp_path / "seg.dcm", segmentation(frames, images)), images, frames


def test_a_frame_belongs_to_the_slice_and_segment_it_refers_to(series):
    paths, seg, *_ = series
    expected = {1: [None, region(3), region(9)], 2: [None, None, region(5)]}
    for segment, label in ((1, "liver"), (2, "cyst")):
        for path, mask in zip(paths, expected[segment], strict=True):
            wanted = np.zeros(SIZE, bool) if mask is None else mask
            assert np.array_equal(read_mask(seg, image=path, segment=segment), wanted)
            assert np.array_equal(read_mask(seg, image=path, segment=label), wanted)


@pytest.mark.parametrize(("writer", "warned"), [("OHIF-VIEWER-2.0.0", 1), ("dcmjs-0.0", 1), ("PYDICOM 3.0.2", 0)])
def test_a_segmentation_that_ohif_wrote_is_read_with_one_warning_as_it_can_be_mirrored(
    tmp_path, caplog, writer, warned
):
    images = [slice_of(position) for position in (0, 2)]
    path = save(tmp_path / "0.dcm", images[0])
    dataset = segmentation([(region(3), 1, images[0], None)], images, labels=("liver",))
    dataset.file_meta[0x00020013] = DataElement(0x00020013, "SH", writer, validation_mode=IGNORE)  # OHIF's is too long
    seg = save(tmp_path / f"{writer[:5]}.dcm", dataset)
    for _ in range(2):
        assert np.array_equal(read_mask(seg, image=path), region(3))
    assert sum("mirrored" in record.getMessage() for record in caplog.records) == warned


def test_a_segment_must_be_named_where_there_are_several(series, tmp_path):
    paths, seg, images, frames = series
    with pytest.raises(InputError, match="holds 2 segments") as error:
        read_mask(seg, image=paths[1])
    assert "1, 2" in str(error.value.hint) and "liver" not in str(error.value)
    for wrong in (3, "spleen", "1"):
        with pytest.raises(InputError, match="no segments called"):
            read_mask(seg, image=paths[1], segment=wrong)
    one = save(tmp_path / "one.dcm", segmentation(frames[1:], images, labels=["liver"]))
    assert np.array_equal(read_mask(one, image=paths[1]), region(3))
    twins = save(tmp_path / "twins.dcm", segmentation(frames, images, labels=["liver", "liver"]))
    with pytest.raises(InputError, match="has 2 segments called 'liver'"):
        read_mask(twins, image=paths[1], segment="liver")


def test_frames_of_one_film_are_matched_by_number(tmp_path):
    film = slice_of(0, frames=4)
    path = save(tmp_path / "film.dcm", film)
    frames = [(region(7), 1, film, 4), (region(2), 1, film, [1, 2])]
    seg = save(tmp_path / "seg.dcm", segmentation(frames, [film], labels=["liver"]))
    masks = [read_mask(seg, image=path, slice=number) for number in range(4)]
    assert [int(mask.sum()) for mask in masks] == [3, 3, 0, 8]
    with pytest.raises(ViewError, match="holds 4 frames"):
        read_mask(seg, image=path)
    unnumbered = save(tmp_path / "u.dcm", segmentation([(region(7), 1, film, None)], [film], labels=["liver"]))
    with pytest.raises(InputError, match="does not say which frames"):
        read_mask(unnumbered, image=path, slice=3)


def test_references_may_stand_in_several_sequences(series, tmp_path):
    paths, _, images, frames = series
    seg = segmentation(frames, images)
    del seg.ReferencedSeriesSequence
    for path, count in ((paths[1], 4), (paths[2], 10)):
        assert read_mask(save(tmp_path / "s.dcm", seg), image=path, segment=1).sum() == count
    with pytest.raises(InputError, match="does not refer to the image"):
        read_mask(tmp_path / "s.dcm", image=paths[0], segment=1)
    seg.SourceImageSequence = Sequence([item(ReferencedSOPInstanceUID=images[0].SOPInstanceUID)])
    assert not read_mask(save(tmp_path / "s.dcm", seg), image=paths[0], segment=1).any()
    one = segmentation([frames[1]], images, labels=["liver"])
    own = one.PerFrameFunctionalGroupsSequence[0]
    one.SharedFunctionalGroupsSequence[0].DerivationImageSequence = own.DerivationImageSequence
    del own.DerivationImageSequence
    assert read_mask(save(tmp_path / "s.dcm", one), image=paths[2]).sum() == 10
    source = nested(SourceImageSequence=Sequence([item(ReferencedSOPInstanceUID=images[1].SOPInstanceUID)]))
    own.DerivationImageSequence = source  # of the frame: it goes before the shared one
    own.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 2]
    path = save(tmp_path / "s.dcm", one)
    assert read_mask(path, image=paths[1]).sum() == 10 and not read_mask(path, image=paths[2]).any()


def test_what_does_not_fit_is_refused(series, tmp_path):
    paths, seg, images, frames = series
    other = save(tmp_path / "other.dcm", slice_of(2))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for image, values, reason in (
        (other, None, "does not refer to the image"), (None, None, "needs the DICOM image"),
        (tmp_path / "a.png", None, "needs the DICOM image"), (paths[1], (1,), "takes no mask_value"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            read_mask(seg, image=image, segment=1, values=values)
    for path in (other, tmp_path / "a.png"):
        with pytest.raises(InputError, match="no segments"):
            read_mask(path, segment=1)

    def refuses(dataset, reason):
        with pytest.raises(InputError, match=reason):
            read_mask(save(tmp_path / "bad.dcm", dataset), image=paths[2], segment=1)

    refuses(segmentation(frames, images, orientation=(-1, 0, 0, 0, 1, 0)), "lies otherwise in space")
    refuses(segmentation([*frames, frames[1]], images), "2 frames of one segment and slice")
    moved = segmentation(frames, images)
    moved.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 2]
    refuses(moved, "lies otherwise in space")
    spaced = segmentation(frames, images)
    spaced.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [2, 1]
    refuses(spaced, "lies otherwise in space")
    bare = segmentation(frames, images)
    for group in bare.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    refuses(bare, "does not say which slices")
    resized = segmentation(frames, images)
    resized.Rows, resized.Columns = SIZE[::-1]
    refuses(resized, "of another size")


def test_fractions_are_refused_and_label_maps_read(series, tmp_path):
    paths, _, images, _ = series
    whole = segmentation([(region(4) * 255, 1, images[0], None)], images, kind="FRACTIONAL", labels=["liver"])
    whole.MaximumFractionalValue = 255
    assert np.array_equal(read_mask(save(tmp_path / "f.dcm", whole), image=paths[0]), region(4))
    half = segmentation([(region(4) * 100, 1, images[0], None)], images, kind="FRACTIONAL", labels=["liver"])
    half.MaximumFractionalValue = 255
    with pytest.raises(InputError, match="fractions"):
        read_mask(save(tmp_path / "h.dcm", half), image=paths[0])
    numbers = region(6).astype(int) + region(2)  # 2 in the first three pixels, 1 in the next four
    labels = save(tmp_path / "l.dcm", segmentation([(numbers, None, images[1], None)], images, kind="LABELMAP"))
    assert [int(read_mask(labels, image=paths[1], segment=number).sum()) for number in (1, 2)] == [4, 3]
    assert not read_mask(labels, image=paths[0], segment=1).any()


def test_manifests_and_folders_read_segmentations(series, tmp_path):
    paths, seg, *_ = series
    lines = [
        {"image": paths[2].name, "mask": seg.name, "segment": 2, "id": "cyst"},
        {"image": paths[1].name, "mask": seg.name, "segment": "liver", "id": "liver"},
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cyst, liver = read_source(tmp_path)
    assert np.array_equal(cyst.load_mask(), region(5)) and np.array_equal(liver.load_mask(), region(3))
    assert "segment" not in cyst.labels
    for name in ("images", "masks"):
        (tmp_path / "f" / name).mkdir(parents=True)
    images = [slice_of(position) for position in (0, 2)]
    for number, image in enumerate(images):
        save(tmp_path / f"f/images/{number}.dcm", image)
        frames = [(region(number), 1, images[0], None), (region(number + 9), 1, images[1], None)]
        save(tmp_path / f"f/masks/{number}.dcm", segmentation(frames, images, labels=["liver"]))
    samples = [sample for sample in read_source(tmp_path / "f") if isinstance(sample, SourceSample)]
    assert [int(sample.load_mask().sum()) for sample in samples] == [1, 11]


def test_the_case_of_frames_in_another_order(shared):
    folder = shared / "cases/imaging/seg"
    with pytest.raises(InputError, match="does not refer to the image"):
        read_mask(folder / "seg_BINARY.dcm", image=folder / "mf.dcm", slice=0, segment=1)
    with pytest.raises(InputError, match="holds 2 segments"):
        read_mask(folder / "seg_BINARY.dcm", image=folder / "mf.dcm", slice=0)
