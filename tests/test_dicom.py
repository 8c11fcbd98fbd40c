"""DICOM images: grey values exact, frames and windows never guessed, every kind of file read or refused in one sentence."""

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs pydicom")

from medground_data.readers import read_source  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

from medground.errors import InputError, MedgroundError, PluginError, ViewError  # noqa: E402
from medground.images import dicom  # noqa: E402
from medground.images.codestream import frame_header  # noqa: E402
from medground.images.read import open_image, read_image, read_mask  # noqa: E402
from medground.images.view import View  # noqa: E402

FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def dicom_dataset(pixels, *, syntax=ExplicitVRLittleEndian, **fields):
    """A CT data set of H×W or N×H×W values."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "CT"
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.shape[-1] != 3 else "RGB"
    dataset.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if pixels.shape[-1] == 3:
        dataset.PlanarConfiguration = 0
        dataset.Rows, dataset.Columns = pixels.shape[-3:-1]
    else:
        dataset.Rows, dataset.Columns = pixels.shape[-2:]
        if pixels.ndim == 3:
            dataset.NumberOfFrames = len(pixels)
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.astype(
        pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
    ).tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    return dataset


def saved(path, dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True)
    return path


HU = np.array([[-1024, -200, -160, -159], [39, 40, 41, 239], [240, 400, 1000, 3000]], np.int16)


def by_formula(values, centre, width):
    """DICOM PS3.3 C.11.2.1.2.1, as it is written there."""
    out = np.zeros(values.shape)
    for at, x in np.ndenumerate(values.astype(float)):
        if x <= centre - 0.5 - (width - 1) / 2:
            out[at] = 0
        elif x > centre - 0.5 + (width - 1) / 2:
            out[at] = 255
        else:
            out[at] = ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return np.rint(out).astype(np.uint8)


@pytest.mark.parametrize("window", ["soft_tissue", "lung", "bone", "brain", "40,400", "-600,1500.5", "500,1"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (2, -3000), (0.5, 10)])
def test_windows_are_exact(tmp_path, window, slope, intercept):
    stored = np.round((HU - intercept) / slope).astype(np.int16)
    path = saved(tmp_path / "x.dcm", dicom_dataset(stored, RescaleSlope=slope, RescaleIntercept=intercept))
    centre, width = {"soft_tissue": (40, 400), "lung": (-600, 1500), "bone": (400, 1800), "brain": (40, 80)}.get(
        window
    ) or map(float, window.split(","))
    shown = open_image(path, View(window=window))
    assert np.array_equal(shown.pixels[..., 1], by_formula(stored * slope + intercept, centre, width))
    name = window if "," not in window else "given"
    assert shown.window == f"{name}: centre {centre:g}, width {width:g}"


def test_the_files_own_window_is_taken_and_told(tmp_path):
    def opened(**fields):
        return open_image(saved(tmp_path / "x.dcm", dicom_dataset(HU, **fields)), View())

    one = opened(WindowCenter=100, WindowWidth=50)
    assert np.array_equal(one.pixels[..., 0], by_formula(HU, 100, 50))
    assert one.window == "file: centre 100, width 50"
    assert opened(WindowCenter=[30, 99], WindowWidth=[60, 1]).window == "file: centre 30, width 60"
    exact = opened(WindowCenter=100, WindowWidth=200, VOILUTFunction="LINEAR_EXACT")
    assert np.array_equal(exact.pixels[..., 0], np.rint(np.clip(HU / 200, 0, 1) * 255))
    curve = opened(WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID")
    assert np.array_equal(curve.pixels[..., 0], np.rint(255 / (1 + np.exp(-4 * (HU - 40.0) / 400))))
    assert curve.window.endswith("SIGMOID")
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 39, 16])
    table.add_new("LUTData", "OW", np.array([0, 1000, 30000, 65535], "<u2").tobytes())
    looked_up = opened(VOILUTSequence=Sequence([table]))
    assert looked_up.window == "file: VOI LUT"
    assert looked_up.pixels[1].tolist() == [[0] * 3, [4] * 3, [117] * 3, [255] * 3]
    assert opened().window.startswith("percentiles: ")
    small = dicom_dataset((HU % 256).astype(np.uint8))
    as_stored = open_image(saved(tmp_path / "y.dcm", small), View())
    assert as_stored.window == "as stored" and np.array_equal(as_stored.pixels[..., 2], HU % 256)


def test_modality_lut_and_full_range(tmp_path):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [3, 0, 16])
    table.add_new("LUTData", "OW", np.array([0, 500, 1000], "<u2").tobytes())
    table.ModalityLUTType = "US"
    stored = np.array([[0, 1, 2, 2]], np.uint16)
    shown = open_image(
        saved(tmp_path / "x.dcm", dicom_dataset(stored, ModalityLUTSequence=Sequence([table]))), View(window="full")
    )
    assert shown.pixels[0, :, 0].tolist() == [0, 128, 255, 255] and shown.window == "full: 0 to 1000"


def test_monochrome1_is_turned_round(tmp_path):
    shown = open_image(
        saved(tmp_path / "x.dcm", dicom_dataset(HU, PhotometricInterpretation="MONOCHROME1")), View(window="40,400")
    )
    assert np.array_equal(shown.pixels[..., 0], 255 - by_formula(HU, 40, 400)) and "inverted" in shown.window


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_plain_coding_says_the_same(tmp_path, syntax):
    path = saved(tmp_path / "x.dcm", dicom_dataset(HU, syntax=syntax))
    assert np.array_equal(read_image(path, window="40,400")[..., 0], by_formula(HU, 40, 400))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.lane
def test_compressed_codings_say_the_same(tmp_path, syntax):
    big = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    dataset = dicom_dataset(big)
    dataset.compress(syntax)
    assert np.array_equal(
        read_image(saved(tmp_path / "x.dcm", dataset), window="2560,5000")[..., 0], by_formula(big, 2560, 5000)
    )


def test_a_missing_decoder_is_named(tmp_path):
    dataset = dicom_dataset(HU, syntax=JPEGLosslessSV1, PixelData=encapsulate([b"\xff\xd8" + bytes(30)]))
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(PluginError, match=r"compressed as JPEG Lossless.*no decoder") as error:
        read_image(saved(tmp_path / "x.dcm", dataset))
    assert error.value.exit_code == 4 and "pip install" in error.value.hint


def test_frames_are_named_by_the_user(tmp_path):
    film = np.stack([HU, HU + 1, HU + 2])
    path = saved(tmp_path / "x.dcm", dicom_dataset(film))
    with pytest.raises(ViewError, match="holds 3 frames") as error:
        read_image(path)
    assert "0 to 2" in error.value.hint
    assert np.array_equal(read_image(path, slice=2, window="40,400")[..., 0], by_formula(HU + 2, 40, 400))
    assert open_image(path, View(slice=1)).details["frame"] == 1
    with pytest.raises(ViewError, match="no frame 3"):
        read_image(path, slice=3)
    single = saved(tmp_path / "y.dcm", dicom_dataset(HU))
    for wrong, reason in (({"slice": 1}, "one frame"), ({"plane": "axial"}, "no plane to choose")):
        with pytest.raises(ViewError, match=reason):
            read_image(single, **wrong)


def test_functional_groups_of_enhanced_files(tmp_path):
    def item(**fields):
        dataset = Dataset()
        for name, value in fields.items():
            setattr(dataset, name, value)
        return dataset

    per_frame = [item(FrameVOILUTSequence=Sequence([item(WindowCenter=c, WindowWidth=400)])) for c in (0, 100)]
    shared = item(
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.5, 0.25])]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=2, RescaleIntercept=-7)]),
    )
    dataset = dicom_dataset(
        np.stack([HU, HU]), PerFrameFunctionalGroupsSequence=Sequence(per_frame),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )  # fmt: skip
    shown = open_image(saved(tmp_path / "x.dcm", dataset), View(slice=1))
    assert np.array_equal(shown.pixels[..., 0], by_formula(HU.astype(int) * 2 - 7, 100, 400))
    assert shown.spacing == (0.5, 0.25) and shown.details["spacing_mm"] == [0.5, 0.25]


def test_colour_is_read_and_takes_no_window(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    path = saved(tmp_path / "x.dcm", dicom_dataset(colours))
    assert np.array_equal(read_image(path), colours)
    with pytest.raises(ViewError, match="colour image, which has no window"):
        read_image(path, window="lung")
    deep = saved(tmp_path / "y.dcm", dicom_dataset(colours.astype(np.uint16) * 256 + 9))
    assert np.array_equal(read_image(deep), colours)
    palette = dicom_dataset(np.array([[0, 1, 2, 2]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for name, values in (("Red", [0, 10, 255]), ("Green", [1, 2, 3]), ("Blue", [9, 8, 7])):
        palette.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [3, 0, 16])
        palette.add_new(f"{name}PaletteColorLookupTableData", "OW", (np.array(values, "<u2") * 257).tobytes())
    assert read_image(saved(tmp_path / "z.dcm", palette)).tolist() == [
        [[0, 1, 9], [10, 2, 8], [255, 3, 7], [255, 3, 7]]
    ]


def test_masks_are_what_is_not_zero(tmp_path):
    assert np.array_equal(
        read_mask(saved(tmp_path / "x.dcm", dicom_dataset(HU * 0 + (HU > 40).astype(np.int16)))), HU > 40
    )


BROKEN = {
    "no_pixels": lambda dataset: dataset.__delattr__("PixelData"),
    "wrong_length": lambda dataset: setattr(dataset, "PixelData", dataset.PixelData[:-7]),
    "slope_0": lambda dataset: setattr(dataset, "RescaleSlope", 0),
    "width_0": lambda dataset: (setattr(dataset, "WindowCenter", 4), setattr(dataset, "WindowWidth", 0)),
    "no_rows": lambda dataset: dataset.__delattr__("Rows"),
    "rows_0": lambda dataset: setattr(dataset, "Rows", 0),
    "huge": lambda dataset: (setattr(dataset, "Rows", 65535), setattr(dataset, "Columns", 65535)),
    "frames": lambda dataset: setattr(dataset, "NumberOfFrames", -3),
    "no_colours": lambda dataset: dataset.__delattr__("PhotometricInterpretation"),
    "odd_colours": lambda dataset: setattr(dataset, "PhotometricInterpretation", "HSV"),
    "samples": lambda dataset: setattr(dataset, "SamplesPerPixel", 7),
    "bits": lambda dataset: setattr(dataset, "BitsAllocated", 13),
    "palette": lambda dataset: setattr(dataset, "PhotometricInterpretation", "PALETTE COLOR"),
    "syntax": lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", "1.2.3.4.5"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_sentence(tmp_path, name):
    dataset = dicom_dataset(HU)
    BROKEN[name](dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(tmp_path / "secret.dcm", implicit_vr=False, little_endian=True)
    refused(tmp_path / "secret.dcm")


@pytest.mark.parametrize("length", [0, 1, 131, 132, 140, 300, 600])
def test_truncated_files_are_refused(tmp_path, length):
    whole = saved(tmp_path / "x.dcm", dicom_dataset(np.zeros((60, 60), np.int16))).read_bytes()
    (tmp_path / "secret.dcm").write_bytes(whole[:length])
    refused(tmp_path / "secret.dcm")


def refused(path):
    with pytest.raises(MedgroundError) as error:
        read_image(path)
    text = str(error.value)
    assert error.value.exit_code in (3, 4) and error.value.hint and "\n" not in text
    assert "secret" not in text and str(path.parent) not in text


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    dataset = dicom_dataset(np.zeros((2000, 2000), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    path = saved(tmp_path / "x.dcm", dataset)
    assert path.stat().st_size < 20_000
    assert read_image(path).shape == (2000, 2000, 3)
    monkeypatch.setattr(dicom, "MAX_BYTES", 1_000_000)
    with pytest.raises(InputError, match="inflates beyond 1 MB"):
        read_image(path)


def test_a_compressed_picture_must_have_its_headers_size(tmp_path):
    dataset = dicom_dataset(np.zeros((64, 80), np.uint16))
    dataset.compress(JPEG2000Lossless)
    data = bytearray(saved(tmp_path / "x.dcm", dataset).read_bytes())
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at : at + 4] = b"\x7f\xff\xff\xff"
    (tmp_path / "secret.dcm").write_bytes(bytes(data))
    with pytest.raises(
        InputError, match="a compressed picture of 2147483647 x 64 pixels under a header that says 80 x 64"
    ):
        read_image(tmp_path / "secret.dcm")


def test_sizes_in_code_streams():
    from PIL import Image as Pillow

    for form in ("JPEG", "JPEG2000"):
        buffer = io.BytesIO()
        Pillow.new("L", (37, 23)).save(buffer, form)
        header = frame_header(buffer.getvalue())
        assert header is not None and header.size == (23, 37) and header.bits == 8 and not header.signed
    assert frame_header(b"\x01\x00\x00\x00" * 16) is None
    endless = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(20)
    for torn in (b"\xff\xd8\xff\xe0\x00\x10", b"\xff\xd8" + b"\x00" * 20):
        with pytest.raises(ValueError, match="no"):
            frame_header(torn)
    for end in (endless, endless[:15]):
        with pytest.raises(ValueError, match="without length"):
            frame_header(end)


def test_the_content_names_a_file(tmp_path):
    first, second = saved(tmp_path / "a.dcm", dicom_dataset(HU)), saved(tmp_path / "b", dicom_dataset(HU + 1))
    assert dicom.neutral_id(first).startswith("dicom-") and dicom.neutral_id(first) != dicom.neutral_id(second)
    assert dicom.is_dicom(second), "known by its magic number"
    assert np.array_equal(read_image(second, window="40,400")[..., 0], by_formula(HU + 1, 40, 400))


def test_patients_stay_together_and_are_not_named(tmp_path):
    for name, patient in (("a", "Doe^Jane"), ("b", "Doe^Jane"), ("c", "Roe^Ann")):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        saved(
            tmp_path / f"images/{name}.dcm",
            dicom_dataset(
                HU + ord(name), PatientName=patient, PatientID=patient[:3], RescaleSlope=1, RescaleIntercept=0
            ),
        )
        saved(tmp_path / f"masks/{name}.dcm", dicom_dataset((HU > 0).astype(np.uint8)))
    cases = list(read_source(tmp_path, window="lung"))
    assert cases[0].group == cases[1].group != cases[2].group and cases[0].group.startswith("patient-")
    for case in cases:
        assert case.id.startswith("dicom-") and case.labels == {"window": "lung", "modality": "CT"}
        text = f"{case.id} {case.where} {case.group} {case.image_key} {dict(case.labels)}"
        assert "Doe" not in text and "Roe" not in text and ".dcm" not in text


@pytest.mark.slow
def test_all_of_pydicoms_own_files(tmp_path):
    """Of 70-odd files of every coding each is read, or refused in one sentence that does not name it."""
    read = 0
    for path in sorted(FILES.glob("*.dcm")):
        name = dicom.neutral_id(path)
        try:
            frames = dicom.DicomFile.read(path).header().frames
            shown = open_image(path, View(slice=0 if frames > 1 else None))
            assert shown.id.startswith(name)
            assert shown.pixels.ndim == 3 and shown.pixels.dtype == np.uint8 and shown.window
            read += 1
        except MedgroundError as error:
            assert error.hint and path.name not in str(error)
    assert read >= 50


def mutated(count, seed):
    dice = random.Random(seed)
    files = [path for path in sorted(FILES.glob("*.dcm")) if path.stat().st_size < 60_000]
    for number in range(count):
        data = bytearray(files[number % len(files)].read_bytes())
        for _ in range(dice.randint(1, 32)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        yield bytes(data[: dice.randrange(len(data))] if number % 4 == 0 else data)


def check_mutated(folder, count, seed):
    outcomes = {"read": 0, "refused": 0}
    for data in mutated(count, seed):
        (folder / "secret.dcm").write_bytes(data)
        try:
            read_image(folder / "secret.dcm", slice=0)
            outcomes["read"] += 1
        except MedgroundError as error:
            assert "secret" not in str(error) and error.hint
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0


def test_damaged_files_are_read_or_refused(tmp_path):
    check_mutated(tmp_path, 120, seed=1)


@pytest.mark.soak
def test_five_thousand_damaged_files(tmp_path):
    check_mutated(tmp_path, 5000, seed=2)


def test_real_files(shared):
    folder = shared / "data/volumes"
    ct = read_image(folder / "dcmqi/01.dcm", window="lung")
    assert ct.shape == (512, 512, 3) and ct[0, 0, 0] == 0
    assert "inverted" in open_image(folder / "highdicom/dx_image.dcm", View()).window
    plain, packed = (read_image(folder / f"pydicom/{name}.dcm") for name in ("MR_small", "MR_small_RLE"))
    assert np.array_equal(plain, packed)
    assert read_image(folder / "highdicom/sm_image.dcm", slice=24).shape == (10, 10, 3)
    assert read_image(folder / "pydicom/examples_palette.dcm").shape == (350, 800, 3)
