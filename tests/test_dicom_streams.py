"""What DICOM files hold against what they say: bits, frames, bytes, colours, decoders."""

import io

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs pydicom")
jpeg_ls = pytest.importorskip("jpeg_ls", reason="needs pyjpegls")

from dicom_parts import words  # noqa: E402
from PIL import Image as Pillow  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
)
from test_dicom import HU, dicom_dataset, saved  # noqa: E402

from medground.errors import InputError, PluginError  # noqa: E402
from medground.images.codestream import frame_header  # noqa: E402
from medground.images.read import open_image  # noqa: E402
from medground.images.view import View  # noqa: E402


def opened(folder, dataset, **view):
    return open_image(saved(folder / "x.dcm", dataset), View(**view))


def compressed(dataset, *streams, has_bot=False):
    dataset.PixelData = encapsulate(list(streams), has_bot=has_bot)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return dataset


@pytest.mark.parametrize("bits", [13, 16])
@pytest.mark.parametrize("signs", ["extended", "cut"])
def test_signed_jpeg_ls_of_any_width(tmp_path, bits, signs):
    """JPEG-LS is unsigned; the sign is bit 12 of 13 stored ones, however wide the stream is."""
    values = np.sort(np.random.default_rng(0).integers(-4096, 4096, (16, 16)), axis=None).reshape(16, 16)
    dataset = dicom_dataset(values.astype(np.int16), syntax=JPEGLSLossless, BitsStored=13, HighBit=12)
    raw = values & ((1 << (bits if signs == "extended" else 13)) - 1)
    compressed(dataset, bytes(jpeg_ls.encode_buffer(raw.astype("<u2").tobytes(), 16, 16, 1, bits)))
    shown = opened(tmp_path, dataset, window="0,8192").pixels[..., 0]
    assert np.array_equal(shown, np.rint((values + 4096) / 8191 * 255))


def test_values_beyond_the_stored_bits_are_refused(tmp_path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 64
    dataset = dicom_dataset(values, syntax=JPEGLSLossless, BitsStored=13, HighBit=12)
    compressed(dataset, bytes(jpeg_ls.encode_buffer(values.tobytes(), 16, 16, 1, 16)))
    with pytest.raises(InputError, match="values of more bits"):
        opened(tmp_path, dataset)
    signed = dicom_dataset(np.arange(-512, 512, dtype=np.int16).reshape(32, 32))
    signed.compress(JPEG2000Lossless)
    signed.PixelRepresentation = 0
    with pytest.raises(InputError, match="says they are unsigned"):
        opened(tmp_path, signed)
    odd = dicom_dataset(values, BitsStored=12, HighBit=15)
    with pytest.raises(InputError, match="an order of old"):
        opened(tmp_path, odd)


SQUARE = np.zeros((16, 32, 3), np.uint8) + np.array([200, 40, 20], np.uint8)


def jpeg_dataset(how, tag, planar=0):
    buffer = io.BytesIO()
    Pillow.fromarray(SQUARE).save(buffer, "JPEG", quality=95, keep_rgb="RGB" in how)
    stream = buffer.getvalue()
    end = 4 + int.from_bytes(stream[4:6], "big")  # of the JFIF segment
    if how == "JFIF over RGB":
        stream = stream[:2] + b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + stream[2:]
    if how in ("Adobe", "unmarked"):
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01" if how == "Adobe" else b""
        stream = stream[:2] + adobe + stream[end:]
    dataset = dicom_dataset(SQUARE, syntax=JPEGBaseline8Bit, PhotometricInterpretation=tag, PlanarConfiguration=planar)
    return compressed(dataset, stream)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("how", ["JFIF", "Adobe", "unmarked", "Adobe RGB", "JFIF over RGB"])
@pytest.mark.parametrize("tag", ["YBR_FULL_422", "YBR_FULL", "RGB", "YBR_PARTIAL_422"])
def test_jpeg_colours_are_the_streams_else_the_headers(tmp_path, how, tag, planar):
    dataset = jpeg_dataset(how, tag, planar)
    if (how, tag) == ("unmarked", "RGB") or tag == "YBR_PARTIAL_422" or how == "JFIF over RGB":
        with pytest.raises(InputError, match="coloured in a way that cannot be known"):
            opened(tmp_path, dataset)
    else:
        assert np.abs(opened(tmp_path, dataset).pixels.astype(int) - SQUARE).max() <= 3


def test_jpeg_2000_colours_must_be_what_the_stream_does(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    dataset = dicom_dataset(noise)
    dataset.compress(JPEG2000Lossless)
    assert np.array_equal(opened(tmp_path, dataset).pixels, noise)
    dataset.PlanarConfiguration = 1
    assert np.array_equal(opened(tmp_path, dataset).pixels, noise), "of no meaning in a code stream"
    plain = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    header = frame_header(plain)
    assert header is not None and header.transformed is False
    dataset.PhotometricInterpretation = "YBR_RCT"
    with pytest.raises(InputError, match="cannot be known"):
        opened(tmp_path, dataset)


def test_colours_of_few_bits_and_halves_in_planes_are_refused(tmp_path):
    rgb = np.full((4, 6, 3), 9, np.uint8)
    for fields in ({"BitsStored": 5, "HighBit": 4}, {"PhotometricInterpretation": "YBR_PARTIAL_422"}):
        with pytest.raises(InputError, match="coloured in a way"):
            opened(tmp_path, dicom_dataset(rgb, **fields))
    halved = dicom_dataset(rgb, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
    halved.PixelData = bytes([100, 200, 128, 128] * 12)
    assert opened(tmp_path, halved).pixels[0, :, 0].tolist() == [100, 200] * 3
    narrow = dicom_dataset(rgb[:, :5], PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
    narrow.PixelData = bytes(40)
    with pytest.raises(InputError, match="coloured in a way"):
        opened(tmp_path, narrow)
    halved.PlanarConfiguration = 1
    with pytest.raises(InputError, match="coloured in a way"):
        opened(tmp_path, halved)


def test_frames_that_are_not_stated_are_refused(tmp_path):
    film = np.stack([HU, HU + 1, HU + 2])
    dataset = dicom_dataset(film)
    del dataset.NumberOfFrames
    with pytest.raises(InputError, match="holds 72 bytes of pixels where its header states 24"):
        opened(tmp_path, dataset)
    dataset.PixelData = bytes(72)
    with pytest.raises(InputError, match="holds 72 bytes"):
        opened(tmp_path, dataset)
    padded = dicom_dataset(HU)
    padded.PixelData += bytes(6)
    assert opened(tmp_path, padded, window="40,400").pixels.any(), "less than a frame of zeros is filling"
    padded.PixelData = padded.PixelData[:-2] + b"\x01\x00"
    with pytest.raises(InputError, match="holds 30 bytes"):
        opened(tmp_path, padded)


@pytest.mark.parametrize("has_bot", [True, False])
def test_compressed_frames_that_are_not_stated_are_refused(tmp_path, has_bot):
    flat = np.repeat(np.arange(16, dtype=np.uint16)[:, None], 16, axis=1)
    streams = [bytes(jpeg_ls.encode_buffer((flat + n).tobytes(), 16, 16, 1, 16)) for n in range(3)]
    dataset = compressed(dicom_dataset(flat, syntax=JPEGLSLossless), *streams, has_bot=has_bot)
    for stated in (None, 2, 4):
        if stated:
            dataset.NumberOfFrames = stated
        with pytest.raises(InputError, match="holds 3 compressed frames in place of"):
            opened(tmp_path, dataset, slice=0 if stated else None)
    dataset.NumberOfFrames = 3
    shown = opened(tmp_path, dataset, slice=2, window="9,256")
    assert shown.pixels[:, 0, 0].tolist() == [119 + 2 + row for row in range(16)]


def test_a_swapped_table_of_offsets_is_refused(tmp_path):
    flat = np.repeat(np.arange(16, dtype=np.uint16)[:, None], 16, axis=1)
    streams = [bytes(jpeg_ls.encode_buffer((flat + n).tobytes(), 16, 16, 1, 16)) for n in range(2)]
    dataset = compressed(dicom_dataset(flat, syntax=JPEGLSLossless, NumberOfFrames=2), *streams, has_bot=True)
    table = dataset.PixelData[8:16]
    dataset.PixelData = dataset.PixelData[:8] + table[4:] + table[:4] + dataset.PixelData[16:]
    with pytest.raises(InputError, match="compressed frames"):
        opened(tmp_path, dataset, slice=0)


def test_a_decoder_that_is_missing_is_said(tmp_path):
    deep = b"\xff\xd8\xff\xc1\x00\x0b\x0c\x00\x10\x00\x10\x01\x01\x11\x00" + bytes(20)
    dataset = dicom_dataset(np.zeros((16, 16), np.uint16), syntax=JPEGExtended12Bit, BitsStored=12, HighBit=11)
    if pydicom.pixels.get_decoder(JPEGExtended12Bit).available_plugins != ("pillow",):
        pytest.skip("a decoder of 12 bits is installed")
    with pytest.raises(PluginError, match="of 12 bits, for which no decoder is installed"):
        opened(tmp_path, compressed(dataset, deep))
    film = dicom_dataset(np.zeros((16, 16), np.uint16), syntax=MPEG2MPML)
    with pytest.raises(InputError, match="compressed in a way that is not read"):
        opened(tmp_path, compressed(film, bytes(20)))


@pytest.mark.parametrize(
    ("syntax", "vr"), [(ExplicitVRLittleEndian, "OW"), (ExplicitVRBigEndian, "OW"), (ExplicitVRBigEndian, "OB")]
)
def test_frames_of_bits_begin_within_bytes_and_words_are_swapped(tmp_path, syntax, vr):
    film = np.random.default_rng(0).integers(0, 2, (3, 5, 7)).astype(np.uint8)
    dataset = dicom_dataset(film, syntax=syntax, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = words(film, ExplicitVRLittleEndian, 1)
    if (syntax, vr) == (ExplicitVRBigEndian, "OW"):
        packed = np.frombuffer(packed, "<u2").byteswap().tobytes()
    dataset.add_new("PixelData", vr, packed)
    for frame in range(3):
        assert np.array_equal(opened(tmp_path, dataset, slice=frame, window="full").pixels[..., 0], film[frame] * 255)
