"""The parts that viewers rest on, each alone: paths, cookies, masks on a volume's grid, labels."""

import io
import re

import numpy as np
import pytest
from medground_serve import access, ohif, proxy
from medground_serve.child import WatchedPipeline
from medground_serve.labels import LabelFolder, file_name
from medground_serve.opened import Opened
from medground_serve.series import Volumes
from medground_serve.settings import Refusal
from medground_serve.volumes import VolumeAnswerer, check_complete, nrrd_bytes, slice_settings

from medground.errors import InputError, MedgroundError, UsageError
from medground.recipe import resolve


def test_what_is_read_through_the_proxy_is_what_dicomweb_names():
    study, series, instance = "studies/1.2", "studies/1.2/series/1.3", "studies/1.2/series/1.3/instances/1.4"
    good = [
        "studies", "series", "instances", study, f"{study}/series", f"{study}/metadata", f"{study}/instances", series,
        f"{series}/instances", f"{series}/metadata", f"{series}/thumbnail", instance, f"{instance}/rendered",
        f"{instance}/frames/1,2", f"{instance}/bulk/7fe00010", f"{instance}/bulk/00281101/1/0a",
    ]  # fmt: skip
    assert [one for one in good if not proxy.READABLE.fullmatch(one)] == []
    bad = [
        "", "system", "studies/", "studies/..", "studies/.", "studies/1..2", "studies/1.2.", "studies/a", f"studies/{'1' * 65}",
        f"{study}/..", f"{study}/series/../..", f"{series}/archive", f"{instance}/file", f"{instance}/frames/..",
        f"{instance}/bulk/..", f"{instance}/bulk/../a", f"{study}\n", f"{study}/series/1.3/instances/1.4/frames/1\n",
    ]  # fmt: skip
    assert [one for one in bad if proxy.READABLE.fullmatch(one)] == []


def test_no_kind_of_content_from_an_archive_can_be_a_page_or_a_script():
    good = ["application/dicom+json", 'multipart/related; type="a/b"', "image/jpeg", "application/json; charset=utf-8"]
    bad = [
        "text/html",
        "image/svg+xml",
        "text/javascript",
        "application/javascript",
        "application/dicom+xml",
        "",
        "x image/png",
    ]
    assert [bool(proxy.KINDS.match(one)) for one in [*good, *bad]] == [True] * len(good) + [False] * len(bad)


TOKEN = "a-token"
COOKIE = f"other=1; medground-1={access.cookie_value(TOKEN)}".encode()


@pytest.mark.parametrize(
    ("headers", "method", "allowed"),
    [
        ({b"authorization": b"Bearer a-token"}, "POST", True),
        ({b"authorization": b"bearer a-token"}, "GET", True),
        ({b"authorization": b"a-token"}, "GET", False),
        ({b"authorization": b"Bearer wrong", b"cookie": COOKIE}, "GET", False),
        ({b"authorization": "Bearer é".encode("latin-1")}, "GET", False),
        ({b"cookie": COOKIE}, "GET", True),
        ({b"cookie": COOKIE}, "POST", False),
        ({b"cookie": COOKIE, b"origin": b"http://h:1"}, "PUT", True),
        ({b"cookie": COOKIE, b"origin": b"https://h:1"}, "DELETE", True),
        ({b"cookie": COOKIE, b"origin": b"http://h:2"}, "POST", False),
        ({b"cookie": COOKIE, b"origin": b"http://h:2"}, "GET", False),
        ({b"cookie": COOKIE, b"sec-fetch-site": b"same-origin"}, "POST", True),
        ({b"cookie": COOKIE, b"sec-fetch-site": b"same-site"}, "GET", False),
        ({b"cookie": COOKIE, b"sec-fetch-site": b"none"}, "GET", True),
        ({b"cookie": b"medground-1=a-token"}, "GET", False),
        ({b"cookie": b'medground-1="'}, "GET", False),
        ({b"cookie": COOKIE, b"host": b"h:2"}, "GET", False),
        ({}, "GET", False),
    ],
)
def test_a_cookie_asks_from_the_server_s_own_pages_and_the_token_from_anywhere(headers, method, allowed):
    assert access.may_ask({b"host": b"h:1", **headers}, method, TOKEN) is allowed


def read_nrrd(path):
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")
    return sitk.ReadImage(str(path))


def test_a_mask_has_its_volume_s_grid_with_columns_fastest(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (5, 4, 3)).astype(np.uint8)
    affine = np.array([[0, 0.5, 0, -3], [0.25, 0, 0, 7.5], [0, 0, -2, 11], [0, 0, 0, 1]])
    data = nrrd_bytes(labels, affine)
    assert data.endswith(b"\n\n" + labels.tobytes(order="F"))
    (tmp_path / "mask.nrrd").write_bytes(data)
    image = read_nrrd(tmp_path / "mask.nrrd")
    for index in [(0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 2)]:
        assert np.allclose(image.TransformIndexToPhysicalPoint(index), (affine @ [*index, 1])[:3])
        assert image[index] == labels[index]


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    pytest.importorskip("pydicom", reason="needs pydicom")
    from viewing import write_series

    return write_series("phantom", tmp_path_factory.mktemp("series") / "phantom")


def ask(volume, out, answer, **job):
    words = (
        "reasoner=scripted",
        f"reasoner.texts=['{answer}']",
        "prompt_interface=regions",
        "segmenter=region_growing",
    )
    answerer = VolumeAnswerer(WatchedPipeline.from_recipe(resolve("infer/toy_volume", *words)), Opened(), 10_000_000)
    given = {"path": str(volume), "out": str(out), "seg": True, "question": "Which?", "slice": "6", "window": None}
    return answerer.answer({**given, **job})


def test_where_nothing_fits_the_mask_is_empty_and_no_segmentation_is_written(volume, tmp_path):
    result = ask(volume, tmp_path, "<answer>[]</answer>")
    assert result["fault"] is None and result["regions"] == [] and result["files"] == {"nrrd": "mask.nrrd"}
    data = (tmp_path / "mask.nrrd").read_bytes()
    assert data.partition(b"\n\n")[2] == bytes(96 * 80 * 24)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nrrd"]


@pytest.mark.parametrize(
    ("job", "words"),
    [({"slice": "24"}, "no axial slice"), ({"slice": "last"}, "names no slice"), ({"window": "x"}, "window")],
)
def test_a_slice_or_window_that_is_not_there_is_refused(volume, tmp_path, job, words):
    with pytest.raises(MedgroundError, match=words):
        ask(volume, tmp_path, "<answer>[]</answer>", **job)


def test_a_recipe_that_follows_nothing_says_how_to_start_the_server(volume, tmp_path):
    answerer = VolumeAnswerer(WatchedPipeline.from_recipe(resolve("infer/toy")), Opened(), 10_000_000)
    job = {"path": str(volume), "out": str(tmp_path), "seg": False, "question": "Which?", "slice": "6", "window": None}
    with pytest.raises(UsageError, match="propagation") as raised:
        answerer.answer(job)
    assert "infer/toy_volume" in str(raised.value)


def test_a_slice_larger_than_allowed_is_refused(volume, tmp_path):
    with pytest.raises(InputError, match="more than 1000 pixels"):
        VolumeAnswerer(WatchedPipeline.from_recipe(resolve("infer/toy_volume")), Opened(), 1000).answer({
            "path": str(volume), "out": str(tmp_path), "seg": False, "question": "?", "slice": "6", "window": None,
        })  # fmt: skip


def test_a_series_with_a_file_that_is_no_slice_is_refused(volume):
    from medground.images.read_volume import read_volume

    check_complete(read_volume(volume), 24)
    with pytest.raises(InputError, match="1 of 25 files"):
        check_complete(read_volume(volume), 25)


@pytest.mark.parametrize("words", ["-1", "1.5", "١", "largest", "", "123456"])
def test_words_that_name_no_slice_are_refused(words):
    with pytest.raises(UsageError):
        slice_settings(words)


def test_labels_are_saved_under_names_that_stay_in_their_folder(tmp_path):
    labels = LabelFolder(tmp_path / "labels")
    names = ["1.2.3", "../../evil", "/etc/passwd", "a b", "a_b", "..", "", "C:\\x", "a" * 300]
    for name in names:
        labels.save(name, name, io.BytesIO(b"NRRD0004" + name.encode()), "{}")
        assert labels.read(name, name)[1] == b"NRRD0004" + name.encode()
    files = [path for path in (tmp_path / "labels").rglob("*") if path.is_file()]
    assert len(files) == 2 * len(names) and len({file_name(name) for name in names}) == len(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels"]


def test_a_label_replaces_the_one_before_it_and_what_is_none_is_refused(tmp_path):
    labels = LabelFolder(tmp_path)
    labels.save("1.2", "final", io.BytesIO(b"NRRD0004 first"), "{}")
    labels.save("1.2", "final", io.BytesIO(b"\x1f\x8b second"), '{"label_info": []}')
    assert labels.read("1.2", "final") == ("label-final.nii.gz", b"\x1f\x8b second")
    for data, params in ((b"MZ no label", "{}"), (b"", "{}"), (b"NRRD0004", "{")):
        with pytest.raises(Refusal) as raised:
            labels.save("1.2", "final", io.BytesIO(data), params)
        assert raised.value.status == 422
    with pytest.raises(Refusal) as raised:
        LabelFolder(None).save("1.2", "final", io.BytesIO(b"NRRD0004"), "{}")
    assert raised.value.status == 403 and "--labels" in raised.value.hint


def test_a_server_without_an_archive_says_how_to_start_it_with_one():
    with pytest.raises(Refusal) as raised:
        Volumes(None, None, None).archive()
    assert raised.value.status == 404 and "--dicomweb" in raised.value.hint


def test_a_folder_without_ohif_is_refused_with_the_command_that_gets_it(tmp_path):
    with pytest.raises(UsageError, match="pip download --no-deps monailabel"):
        ohif.check_folder(tmp_path)


def test_the_policy_of_ohif_s_pages_allows_nothing_outside_and_no_eval():
    sources = set(re.findall(r"[^\s;]+", ohif.POLICY)) - set(re.findall(r"(?:^|; )([a-z-]+)", ohif.POLICY))
    assert sources == {"'none'", "'self'", "'unsafe-inline'", "'wasm-unsafe-eval'", "blob:", "data:"}
