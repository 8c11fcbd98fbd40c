"""The parts that viewers rest on, each alone: errors of DICOMweb servers, paths, cookies, masks on a volume's grid, labels."""

import contextlib
import io
import json
import re
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from medground_serve import access, archive, ohif, proxy
from medground_serve.archive import (
    AbsentError,
    ArchiveError,
    BrokenError,
    CertificateError,
    CredentialsError,
    SlowError,
    UnreachableError,
)
from medground_serve.child import WatchedPipeline
from medground_serve.dicomweb import DicomWeb, Series
from medground_serve.labels import LabelFolder, file_name
from medground_serve.series import Volumes
from medground_serve.settings import Refusal
from medground_serve.store import ImageStore
from medground_serve.volumes import VolumeAnswerer, check_complete, nrrd_bytes, slice_settings

from medground.errors import InputError, UsageError

UID = "1.2.840.7"
LISTED = [{"0020000D": {"vr": "UI", "Value": ["1.2.3"]}, "00080018": {"vr": "UI", "Value": ["1.2.9"]}}]
SERIES = Series("1.2.3", UID, frozenset({"1.2.9", "1.2.10"}))
MULTIPART = 'multipart/related; type="application/dicom"; boundary=limit'


class Archive(ThreadingHTTPServer):
    """A server on loopback that answers every request alike, and remembers them."""

    def __init__(self, status=200, body=b"[]", kind="application/dicom+json", length=None, wait=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.wait, self.seen = (status, body, kind, len(body) if length is None else length), wait, []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        status, body, kind, length = self.server.answer
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(length)),
            ("Location", "http://evil.example/"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if self.server.wait is not None:
            self.server.wait.wait(30)
        self.wfile.write(body[len(body) // 2 :])
        self.close_connection = True

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(server, tls=None):
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}/dicom-web"
    finally:
        if server.wait is not None:
            server.wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


def web(url, seconds=30.0, **options):
    return DicomWeb(archive.archive(url, **options), seconds)


@pytest.mark.parametrize(
    ("server", "error", "word"),
    [
        ({"status": 401}, CredentialsError, "credentials (401)"),
        ({"status": 403}, CredentialsError, "credentials (403)"),
        ({"status": 404}, AbsentError, "does not have"),
        ({"status": 302}, BrokenError, "answered 302"),
        ({"status": 500}, BrokenError, "answered 500"),
        ({"body": b"[]"}, AbsentError, "no such series"),
        ({"body": b"<html>"}, BrokenError, "damaged"),
        ({"body": b"{}"}, BrokenError, "no list"),
        ({"body": b"[1]"}, BrokenError, "damaged"),
        ({"body": b'[{"0020000D": {"Value": ["../.."]}}]'}, BrokenError, "damaged"),
        ({"body": b"[]", "length": 90}, BrokenError, "broke off"),
    ],
)
def test_an_archive_that_fails_is_one_error_of_its_own(server, error, word):
    with serving(Archive(**server)) as url, pytest.raises(error) as raised:
        web(url).series(UID)
    assert type(raised.value) is error and word in raised.value.error


def test_an_archive_that_is_slow_or_not_there_is_one_error_of_its_own():
    with serving(Archive(body=b"[ ]", wait=threading.Event())) as url, pytest.raises(SlowError):
        web(url, seconds=0.3).series(UID)
    server = Archive()
    server.server_close()
    with pytest.raises(UnreachableError):
        web(f"http://127.0.0.1:{server.server_port}").series(UID)
    with serving(Archive()) as url, pytest.raises(BrokenError, match="TLS"):
        web(url.replace("http:", "https:")).series(UID)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = [*words.split(), "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return folder / "certificate.pem", context


def test_a_certificate_must_be_trusted_and_of_the_host(certificate):
    path, context = certificate
    with serving(Archive(body=json.dumps(LISTED).encode()), context) as url:
        with pytest.raises(CertificateError) as raised:
            web(url).series(UID)
        assert "self-signed" in raised.value.error and "--dicomweb-ca" in raised.value.hint
        assert web(url, authority=path).series(UID).instances == {"1.2.9"}
        with pytest.raises(CertificateError):
            web(url.replace("127.0.0.1", "localhost"), authority=path).series(UID)


def test_credentials_come_from_the_environment_or_a_file_and_go_to_the_archive_alone(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password of-the-file\n")
    with serving(server := Archive(body=json.dumps(LISTED).encode())) as url:
        web(url).series(UID)
        web(url, netrc_file=tmp_path / "netrc").series(UID)
        monkeypatch.setenv(archive.USER, "reader")
        monkeypatch.setenv(archive.PASSWORD, "of-the-environment")
        web(url, netrc_file=tmp_path / "netrc").series(UID)
        monkeypatch.setenv(archive.TOKEN, "abc")
        web(url).series(UID)
        assert "abc" not in repr(archive.archive(url))
    sent = [headers.get("Authorization") for _, _, headers, _ in server.seen[::2]]
    assert sent == [None, "Basic cmVhZGVyOm9mLXRoZS1maWxl", "Basic cmVhZGVyOm9mLXRoZS1lbnZpcm9ubWVudA==", "Bearer abc"]
    assert [path for _, path, *_ in server.seen[:2]] == [
        f"/dicom-web/series?SeriesInstanceUID={UID}", f"/dicom-web/studies/1.2.3/series/{UID}/instances"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "host/dicom-web", "https://user:secret@host", "https://host/?a", "http://[", "https://host/ x", ""],
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url):
    with pytest.raises(UsageError) as raised:
        archive.archive(url)
    assert "secret" not in str(raised.value)


def test_credentials_do_not_leave_the_machine_without_tls(monkeypatch, tmp_path):
    monkeypatch.setenv(archive.TOKEN, "abc")
    with pytest.raises(UsageError, match="TLS"):
        archive.archive("http://pacs.example/dicom-web")
    assert archive.archive("https://pacs.example/dicom-web").port == 443
    monkeypatch.setenv(archive.TOKEN, "a b")
    with pytest.raises(UsageError, match="TOKEN"):
        archive.archive("https://pacs.example/dicom-web")
    monkeypatch.delenv(archive.TOKEN)
    (tmp_path / "netrc").write_text("machine other login a password b\n")
    with pytest.raises(UsageError, match="no line for"):
        archive.archive("https://pacs.example", netrc_file=tmp_path / "netrc")
    (tmp_path / "netrc").write_text("machine\n")
    with pytest.raises(UsageError, match="damaged"):
        archive.archive("https://pacs.example", netrc_file=tmp_path / "netrc")
    with pytest.raises(UsageError, match="certificate"):
        archive.archive("https://pacs.example", authority=tmp_path / "netrc")


def parts(*contents, end=b"--limit--\r\n"):
    return b"".join(b"--limit\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in contents) + end


def test_a_series_is_written_part_by_part(tmp_path):
    contents = [bytes(range(256)) * 900, b"\r\n--limi\r\n-"]
    with serving(Archive(body=b"\r\n" + parts(*contents), kind=MULTIPART)) as url:
        web(url).fetch(SERIES, tmp_path, 1_000_000)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == contents


@pytest.mark.parametrize(
    ("body", "kind", "most", "error"),
    [
        (parts(b"a"), MULTIPART, 1000, BrokenError),
        (parts(b"a", b"b", end=b""), MULTIPART, 1000, BrokenError),
        (b"no parts at all", MULTIPART, 1000, BrokenError),
        (b"", MULTIPART, 1000, BrokenError),
        (parts(b"a", b"b"), "application/dicom", 1000, BrokenError),
        (parts(b"a", b"b"), "multipart/related", 1000, BrokenError),
        (parts(b"a" * 600, b"b" * 600), MULTIPART, 1000, ArchiveError),
    ],
)
def test_a_series_that_does_not_come_whole_is_refused(tmp_path, body, kind, most, error):
    store = ImageStore(tmp_path, most_bytes=10_000, seconds=10)

    def write(path):
        path.mkdir()
        web(url).fetch(SERIES, path, most)

    with serving(Archive(body=body, kind=kind)) as url, pytest.raises(error) as raised:
        store.add("series", write)
    assert type(raised.value) is error
    assert list(tmp_path.iterdir()) == [] and len(store) == 0, "nothing stays behind"


def test_a_segmentation_is_sent_whole_and_its_refusal_is_an_error():
    data = bytes(range(256))
    with serving(server := Archive(body=b"{}")) as url:
        web(url).store("1.2.3", data)
    [(method, path, headers, body)] = server.seen
    limit = headers["Content-Type"].partition("boundary=")[2].encode()
    assert (method, path) == ("POST", "/dicom-web/studies/1.2.3")
    assert body == b"--" + limit + b"\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--" + limit + b"--\r\n"
    refused = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}
    for body in (json.dumps(refused).encode(), b"[]"):
        with serving(Archive(body=body)) as url, pytest.raises(BrokenError) as raised:
            web(url).store("1.2.3", data)
        assert "did not store" in raised.value.error


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
    good = ["application/dicom+json", MULTIPART, "image/jpeg", "application/json; charset=utf-8"]
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
    answerer = VolumeAnswerer(WatchedPipeline.from_recipe(recipe_of(*words)), 10_000_000)
    given = {"path": str(volume), "out": str(out), "seg": True, "question": "Which?", "slice": "6", "window": None}
    return answerer.answer({**given, **job})


def recipe_of(*words):
    from medground.recipe import resolve

    return resolve("infer/toy_volume", *words)


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
    from medground.errors import MedgroundError

    with pytest.raises(MedgroundError, match=words):
        ask(volume, tmp_path, "<answer>[]</answer>", **job)


def test_a_recipe_that_follows_nothing_says_how_to_start_the_server(volume, tmp_path):
    from medground.recipe import resolve

    answerer = VolumeAnswerer(WatchedPipeline.from_recipe(resolve("infer/toy")), 10_000_000)
    job = {"path": str(volume), "out": str(tmp_path), "seg": False, "question": "Which?", "slice": "6", "window": None}
    with pytest.raises(UsageError, match="propagation") as raised:
        answerer.answer(job)
    assert "infer/toy_volume" in str(raised.value)


def test_a_slice_larger_than_allowed_is_refused(volume, tmp_path):
    with pytest.raises(InputError, match="more than 1000 pixels"):
        VolumeAnswerer(WatchedPipeline.from_recipe(recipe_of()), 1000).answer({
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
