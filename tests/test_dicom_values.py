"""What DICOM files say of their values: padding, tables, units, windows, masks, names; each with a value worked by hand."""

import io

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs pydicom")
jpeg_ls = pytest.importorskip("jpeg_ls", reason="needs pyjpegls")

from dicom_parts import nested, words  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from test_dicom import HU, dicom_dataset, saved  # noqa: E402
from test_dicom_streams import jpeg_dataset, opened  # noqa: E402

from medground.data.inputs import read_inputs  # noqa: E402
from medground.errors import InputError, ViewError  # noqa: E402
from medground.images import dicom, dicom_grey, dicom_pixels  # noqa: E402
from medground.images.paths import list_images  # noqa: E402
from medground.images.read import read_image, read_mask  # noqa: E402

RAMP = np.arange(0, 1024, 4, dtype=np.int16)[None]


@pytest.mark.parametrize(
    ("vr", "value", "limit"), [("SS", 32767, None), ("US", 0x8300, 0x8305), ("SS", -32000, -31995)]
)
def test_padding_counts_in_no_percentile_and_no_full_range(tmp_path, vr, value, limit):
    signed = value - (1 << 16) if value > 32767 else value
    padded = np.hstack([RAMP, np.full((1, 30), signed, np.int16)])
    dataset = dicom_dataset(padded, Modality="MR", RescaleSlope=2, RescaleIntercept=-5)
    dataset.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", vr, limit)
    shown = opened(tmp_path, dataset, window="full")
    assert shown.window == "full: -5 to 2035"
    assert np.array_equal(shown.pixels[0, :256, 0], np.arange(256))
    assert opened(tmp_path, dataset).window == "percentiles: 5.2 to 2024.8"
    assert shown.details["padding"] == [signed, signed if limit is None else signed + 5]


def test_padding_of_floats_and_of_a_whole_picture(tmp_path):
    dataset = dicom_dataset(np.zeros((1, 4), np.uint32))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[keyword]
    dataset.FloatPixelData = np.array([0, 0.5, 1, -7], np.float32).tobytes()
    dataset.FloatPixelPaddingValue = -7.0
    shown = opened(tmp_path, dataset, window="full")
    assert shown.pixels[0, :, 0].tolist() == [0, 128, 255, 0] and shown.details["padding"] == [-7.0, -7.0]
    dataset.FloatPixelPaddingValue = float("nan")
    assert "padding" not in opened(tmp_path, dataset, window="full").details
    every = dicom_dataset(np.full((2, 2), 9, np.uint16), PixelPaddingValue=9)
    assert opened(tmp_path, every, window="full").window == "full: 0 to 0"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("bits", "entries", "red"), [(16, [0, 200, 51456], [0, 0, 201]), (8, [7, 200, 255], [7, 200, 255])]
)
def test_palettes_take_the_descriptors_bits(tmp_path, syntax, bits, entries, red):
    """A dark palette of 16 bits is dark: no entry says by its own size how many bits it has."""
    index = np.array([[0, 1, 2, 9]], np.uint16)
    dataset = dicom_dataset(index, syntax=syntax, PhotometricInterpretation="PALETTE COLOR")
    packed = np.frombuffer(bytes([*entries, 0]), "<u2").tolist() if bits == 8 else entries
    for name in ("Red", "Green", "Blue"):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [3, 0, bits])
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", words(packed, syntax, 16))
    assert opened(tmp_path, dataset).pixels[0, :, 0].tolist() == [*red, red[-1]]
    for colours, wrong in (("Blue", 24 - bits), ("Red Green Blue", 12)):
        for name in colours.split():
            dataset[f"{name}PaletteColorLookupTableDescriptor"].value = [3, 0, wrong]
        with pytest.raises(InputError, match="not as its descriptor says"):
            opened(tmp_path, dataset)


@pytest.mark.parametrize(("bits", "read"), [(8, True), (16, True), (12, False)])
def test_palettes_have_8_or_16_bits(tmp_path, bits, read):
    dataset = dicom_dataset(np.array([[0, 1, 2, 2]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [3, 0, bits])
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", words([1, 2, 3], "", 16))
    if read:
        assert opened(tmp_path, dataset).pixels[0, :, 0].tolist() == ([1, 2, 3, 3] if bits == 8 else [0] * 4)
    else:
        with pytest.raises(InputError, match="not as its descriptor says"):
            opened(tmp_path, dataset)


def test_segmented_palettes_are_expanded(tmp_path):
    dataset = dicom_dataset(np.arange(6, dtype=np.uint8)[None], PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [6, 0, 16])
        codes = [0, 2, 0x1000, 0x2000, 1, 4, 0x6000]  # two entries, then four in equal steps
        dataset.add_new(f"Segmented{name}PaletteColorLookupTableData", "OW", words(codes, "", 16))
    assert opened(tmp_path, dataset).pixels[0, :, 0].tolist() == [0x10, 0x20, 0x30, 0x40, 0x50, 0x60]
    for name in ("Red", "Green", "Blue"):
        dataset[f"{name}PaletteColorLookupTableDescriptor"].value = [6, 0, 8]
        # A byte each: 2 entries of 16 and 32, 4 in steps up to 96; the last byte fills the word.
        dataset[f"Segmented{name}PaletteColorLookupTableData"].value = bytes([0, 2, 16, 32, 1, 4, 96, 0])
    assert opened(tmp_path, dataset).pixels[0, :, 0].tolist() == [16, 32, 48, 64, 80, 96]
    for name in ("Red", "Green", "Blue"):
        dataset[f"{name}PaletteColorLookupTableDescriptor"].value = [6, 0, 16]
        # One entry, two in steps of 0x1000, three more.
        codes = [0, 1, 0x1000, 1, 2, 0x3000, 1, 3, 0x6000]
        dataset[f"Segmented{name}PaletteColorLookupTableData"].value = words(codes, "", 16)
    assert opened(tmp_path, dataset).pixels[0, :, 0].tolist() == [0x10, 0x20, 0x30, 0x40, 0x50, 0x60]
    for codes in ([1, 6, 0x6000], [0, 3, 1, 2, 3, 2, 1, 0, 0], [0, 9, *range(9)]):
        dataset.SegmentedRedPaletteColorLookupTableData = words(codes, "", 16)
        with pytest.raises(InputError, match="not as its descriptor says"):
            opened(tmp_path, dataset)


def test_one_sample_a_pixel_is_a_colour_of_a_palette_alone():
    for interpretation in ("RGB", "YBR_FULL"):
        dataset = dicom_dataset(np.arange(6, dtype=np.uint8)[None], PhotometricInterpretation=interpretation)
        with pytest.raises(InputError, match="coloured in a way that cannot be known"):
            dicom_pixels.colours(dataset, np.arange(6, dtype=np.uint8)[None], "x")


def test_hounsfield_windows_need_hounsfield_units(tmp_path):
    def lung(pixels=HU, **fields):
        return opened(tmp_path, dicom_dataset(pixels, **fields), window="lung").window

    rescale = {"RescaleSlope": 1, "RescaleIntercept": 0}
    assert lung(**rescale) == "lung: centre -600, width 1500"
    assert lung(**rescale, Modality="OT", SOPClassUID=SecondaryCaptureImageStorage, RescaleType="HU")
    for fields in (
        {}, {**rescale, "RescaleType": "US"}, {**rescale, "SOPClassUID": SecondaryCaptureImageStorage},
        {**rescale, "pixels": (HU % 256).astype(np.uint8)}, {**rescale, "Modality": ""},
    ):  # fmt: skip
        with pytest.raises(ViewError, match="does not say that its values are Hounsfield units"):
            lung(**fields)


def test_a_window_narrower_than_1_is_for_fractions(tmp_path):
    thirds = dicom_dataset(np.arange(4, dtype=np.uint16)[None], RescaleSlope=0.1, RescaleIntercept=0)
    assert opened(tmp_path, thirds, window="0.1,0.2").pixels[0, :, 0].tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("fields", [{"WindowCenter": 40}, {"WindowWidth": 400}])
def test_half_a_window_is_none(tmp_path, fields):
    assert opened(tmp_path, dicom_dataset(HU, **fields)).window.startswith("percentiles")


def test_only_unsigned_values_of_8_stored_bits_stand_as_they_are(tmp_path):
    eight = np.arange(0, 256, 5)[None]
    for fields, pixels in (({}, eight.astype(np.uint8)), ({"BitsStored": 8, "HighBit": 7}, eight.astype(np.uint16))):
        shown = opened(tmp_path, dicom_dataset(pixels, **fields))
        assert shown.window == "as stored" and np.array_equal(shown.pixels[..., 0], eight)
    for fields, pixels in (
        ({}, (eight - 128).astype(np.int8)), ({"BitsStored": 7, "HighBit": 6}, (eight // 2).astype(np.uint8)),
        ({"RescaleSlope": 1, "RescaleIntercept": 3}, eight.astype(np.uint8)),
    ):  # fmt: skip
        assert opened(tmp_path, dicom_dataset(pixels, **fields)).window.startswith("percentiles")


def test_hounsfield_windows_are_for_ct(tmp_path):
    path = saved(tmp_path / "x.dcm", dicom_dataset(HU, Modality="MR"))
    with pytest.raises(ViewError, match="is not CT but MRI"):
        read_image(path, window="lung")
    assert read_image(path, window="40,400").any()


def test_masks_hold_labels_that_lie_where_the_image_lies(tmp_path):
    image = saved(tmp_path / "image.dcm", dicom_dataset(HU, ImagePositionPatient=[0, 0, 4]))
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3

    def mask(pixels=labels, image=image, values=None, slice=None, **fields):
        return read_mask(
            saved(tmp_path / "m.dcm", dicom_dataset(pixels, **fields)), image=image, values=values, slice=slice
        )

    assert np.array_equal(mask(), labels != 0) and np.array_equal(mask(values=(2,)), labels == 2)
    assert np.array_equal(mask(PhotometricInterpretation="MONOCHROME1", values=(1,)), labels == 1)
    for fields, reason in (
        ({"PhotometricInterpretation": "MONOCHROME1"}, "shows 0 as white"),
        ({"RescaleSlope": 1, "RescaleIntercept": -1}, "holds measured values"),
        ({"ImagePositionPatient": [0, 0, 6]}, "lies otherwise in space"),
    ):
        with pytest.raises(InputError, match=reason):
            mask(**fields)
    film = saved(tmp_path / "film.dcm", dicom_dataset(np.stack([HU] * 4)))
    with pytest.raises(InputError, match="holds 3 frames and its image 4"):
        mask(np.stack([labels] * 3), image=film, slice=1)
    inverse = dicom_dataset(labels, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        inverse.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [3, 0, 16])
        inverse.add_new(f"{name}PaletteColorLookupTableData", "OW", words([0xFFFF, 0, 0], "", 16))
    assert np.array_equal(read_mask(saved(tmp_path / "p.dcm", inverse)), labels == 0), "index 0 is white"
    colours = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    red = np.where(labels[..., None] == 1, [255, 0, 0], [0, 0, 0]).astype(np.uint8)
    assert np.array_equal(mask(red, **colours), labels == 1), "the one colour on black"
    for pixels, fields, reason in (
        (np.where(red.any(axis=2, keepdims=True), red, np.uint8(255)), colours, "several colours"),
        (np.where(labels == 2, 99, labels).astype(np.uint8), {"PixelPaddingValue": 99}, "padding beside its labels"),
    ):
        with pytest.raises(InputError, match=reason):
            mask(pixels, **fields)
    odds = dicom_dataset(np.zeros((1, 4), np.uint32))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del odds[keyword]
    odds.FloatPixelData = np.array([0, 0.5, 1, np.nan], np.float32).tobytes()
    with pytest.raises(InputError, match="holds measured values"):
        read_mask(saved(tmp_path / "f.dcm", odds))
    with pytest.raises(InputError, match="blurred by its compression"):
        read_mask(saved(tmp_path / "j.dcm", jpeg_dataset("JFIF", "YBR_FULL_422")))


def test_tables_and_windows_stand_in_functional_groups(tmp_path):
    table = nested(LUTDescriptor=[2, 40, 16], LUTData=words([0, 0x8000], "", 16))
    table[0]["LUTData"].VR = "OW"
    dataset = dicom_dataset(np.stack([HU, HU]), WindowCenter=1, WindowWidth=2)
    dataset.SharedFunctionalGroupsSequence = nested(FrameVOILUTSequence=nested(VOILUTSequence=table))
    shown = opened(tmp_path, dataset, slice=1)
    assert shown.window == "file: VOI LUT" and shown.pixels[1, :, 0].tolist() == [0, 0, 128, 128]
    groups = [nested(FrameVOILUTSequence=nested(WindowCenter=c, WindowWidth=256))[0] for c in (128, 28)]
    dataset.PerFrameFunctionalGroupsSequence = pydicom.Sequence(groups)
    dataset.VOILUTFunction = "SIGMOID"  # of the window beside it, not of the group's
    shown = opened(tmp_path, dataset, slice=1)
    assert shown.window == "file: centre 28, width 256" and shown.pixels[1, :, 0].tolist() == [139, 140, 141, 255]
    dataset.PerFrameFunctionalGroupsSequence = pydicom.Sequence(groups[:1])
    with pytest.raises(InputError, match="does not describe as many"):
        opened(tmp_path, dataset, slice=1)


@pytest.mark.parametrize(("vr", "first"), [("SS", -1024), ("US", 64512)])
def test_a_table_of_negative_values_begins_below_0_whatever_its_vr(tmp_path, vr, first):
    table = nested()
    table[0].add_new("LUTDescriptor", vr, [1025, first, 16])
    table[0].add_new("LUTData", "OW", words(np.arange(1025) * 51, "", 16))
    dataset = dicom_dataset(np.array([[0, 257, 514, 1024]], np.uint16), RescaleSlope=1, RescaleIntercept=-1024)
    dataset.VOILUTSequence = table
    assert opened(tmp_path, dataset).pixels[0, :, 0].tolist() == [0, 51, 102, 203]


def test_a_table_of_0_entries_holds_65536(tmp_path):
    table = nested()
    table[0].add_new("LUTDescriptor", "US", [0, 0, 16])
    table[0].add_new("LUTData", "OW", words(np.arange(65536)[::-1], "", 16))
    dataset = dicom_dataset(np.array([[0, 257, 65535, 1]], np.uint16), VOILUTSequence=table)
    assert opened(tmp_path, dataset).pixels[0, :, 0].tolist() == [255, 254, 0, 255]


@pytest.mark.parametrize("fields", [{"RescaleSlope": 2}, {"RescaleIntercept": 2}])
def test_half_a_rescale_is_refused(tmp_path, fields):
    with pytest.raises(InputError, match="a rescale that is incomplete"):
        opened(tmp_path, dicom_dataset(HU, **fields))


def test_a_rescale_that_changes_nothing_may_stand_beside_a_table(tmp_path):
    table = nested(LUTDescriptor=[2, 0, 16], ModalityLUTType="HU", LUTData=words([7, 9], "", 16))
    pixels = np.array([[0, 1]], np.uint8)
    for fields in ({}, {"RescaleSlope": 1, "RescaleIntercept": 0}):
        dataset = dicom_dataset(pixels, ModalityLUTSequence=table, **fields)
        measured = dicom_grey.measure(dataset, pixels, 0, "x")
        assert (measured.values.tolist(), measured.changed, measured.hounsfield) == ([[7, 9]], True, True)
    for slope, intercept in ((1, -1), (1, 1), (2, 0)):
        dataset = dicom_dataset(pixels, ModalityLUTSequence=table, RescaleSlope=slope, RescaleIntercept=intercept)
        with pytest.raises(InputError, match="contradicted by a table"):
            dicom_grey.measure(dataset, pixels, 0, "x")


@pytest.mark.parametrize(
    ("dtype", "bits", "slope", "intercept", "negative"),
    [
        (np.int16, 12, 1, 2048, False), (np.int16, 12, 1, 2047, True),  # -2048 to 2047
        (np.int16, 12, -1, 2047, False), (np.int16, 12, -1, 2046, True),
        (np.uint8, 8, -1, 255, False), (np.uint8, 8, -1, 254, True),  # 0 to 255
        (np.uint8, 8, 2, 0, False), (np.uint8, 8, 2, -0.5, True),
    ],
)  # fmt: skip
def test_values_may_be_negative_where_the_least_stored_one_or_the_greatest_is(dtype, bits, slope, intercept, negative):
    pixels = np.array([[1, 3]], dtype)
    dataset = dicom_dataset(pixels, BitsStored=bits, HighBit=bits - 1, RescaleSlope=slope, RescaleIntercept=intercept)
    measured = dicom_grey.measure(dataset, pixels, 0, "x")
    assert measured.values.tolist() == [[slope + intercept, 3 * slope + intercept]]
    assert measured.negative == negative


def test_axes_are_in_the_result(tmp_path):
    for cosines, axes in (
        ([1, 0, 0, 0, 1, 0], "LP"),
        ([0, 0.99, 0.1, 0, 0.1, -0.99], "PI"),
        ([-1, 0, 0, 0, 0, 1], "RS"),
    ):
        assert opened(tmp_path, dicom_dataset(HU, ImageOrientationPatient=cosines)).details["axes"] == axes
    assert "axes" not in opened(tmp_path, dicom_dataset(HU)).details


def test_the_pseudonym_is_of_number_name_and_birth_date(tmp_path):
    def group(**fields):
        return dicom.DicomFile.read(saved(tmp_path / "x.dcm", dicom_dataset(HU, **fields))).header().group

    jane = {"PatientID": "1", "PatientName": "Doe^Jane", "PatientBirthDate": "19500101"}
    others = [{**jane, key: value} for key, value in (
        ("PatientID", "2"), ("PatientName", "Roe^Ann"), ("PatientBirthDate", "19600101"))]  # fmt: skip
    groups = {group(**fields) for fields in (jane, *others)}
    assert len(groups) == 4 and group(**jane, SeriesInstanceUID="1.2") in groups
    assert group(SeriesInstanceUID="1.2").startswith("series-") and group() == ""


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("with_meta", [True, False])
def test_files_without_preamble_and_suffix_are_listed_and_read(tmp_path, syntax, with_meta):
    whole = saved(tmp_path / "whole.dcm", dicom_dataset(HU, syntax=syntax)).read_bytes()
    if not with_meta:
        buffer = io.BytesIO()
        dataset = dicom_dataset(HU, syntax=syntax)
        del dataset.file_meta
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        bare = buffer.getvalue()
    else:
        bare = whole[132:]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/IM0001").write_bytes(bare)
    (tmp_path / "in/notes").write_text("\b a text")
    (tmp_path / "in/DICOMDIR").write_bytes(whole)
    assert [path.name for path in list_images(tmp_path / "in")] == ["IM0001"]
    assert np.array_equal(
        read_image(tmp_path / "in/IM0001", window="40,400"), read_image(tmp_path / "whole.dcm", window="40,400")
    )
    (only,) = read_inputs(tmp_path / "in", "Where?")
    assert only.id.startswith("dicom-") and not only.problem
