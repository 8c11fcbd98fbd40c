"""DICOMweb servers that fail, lie or want credentials: small real ones on loopback, each with one fault."""

import contextlib
import json
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from medground_serve import archive
from medground_serve.archive import (
    AbsentError,
    ArchiveError,
    BrokenError,
    CertificateError,
    CredentialsError,
    SlowError,
    UnreachableError,
)
from medground_serve.dicomweb import DicomWeb, Series
from medground_serve.store import ImageStore

from medground.errors import UsageError

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
    store = ImageStore(tmp_path, most_bytes=10_000, most_images=9, seconds=10)

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
