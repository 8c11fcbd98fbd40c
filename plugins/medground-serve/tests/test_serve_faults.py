"""Clients that stall, flood, leave or lie, and a worker that dies: the server says so and goes on."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving import SECONDS, Server, form

from medground.images.pictures import png_bytes

pytestmark = pytest.mark.slow
PICTURE = png_bytes(np.where(np.hypot(*np.ogrid[-40:40, -50:50]) < 12, 200, 40).astype(np.uint8))
SLOW = png_bytes(np.random.default_rng(0).integers(0, 255, (1400, 1400), np.uint8))
"""An image whose answer takes seconds."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server("--waiting", "1", "--max-mb", "2", folder=tmp_path_factory.mktemp("faults")).wait_ready()
    yield server
    assert server.stop() == 0


@pytest.fixture(autouse=True)
def still_serves(server):
    """After whatever happened, a question is answered, and no traceback is in the log."""
    yield
    server.wait_for(lambda: server.counter("medground_pending") == 0)
    server.wait_ready()
    status, answer = server.ground(PICTURE, "Which spot is bright?")
    assert status == 200 and answer["regions"]
    log = server.log.read_text()
    assert "Traceback" not in log and "failed" not in log


def exchange(server, data, *, read=True):
    """Send bytes; return what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        connection.sendall(data)
        answer = b""
        while read and (block := connection.recv(65536)):
            answer += block
        return answer


def raw(server, body, kind="multipart/form-data; boundary=limit", length=None):
    """Return a request to /ground as bytes."""
    size = len(body) if length is None else length
    head = f"POST /ground HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\nConnection: close\r\n"
    return f"{head}Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode() + body


def test_more_requests_than_may_wait_are_refused_at_once_with_a_time_to_retry(server):
    upload, kind = form({}, SLOW)
    key = json.loads(server.request("POST", "/images", upload, Content_Type=kind)[2])["image"]

    def ask(_):
        fields, kind = form({"question": "Which?", "image": key}, None)
        status, headers, _ = server.request("POST", "/ground", fields, Content_Type=kind)
        return status, headers.get("retry-after")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 429} and 2 <= statuses.count(200) < 8
    assert all(int(seconds) >= 1 for status, seconds in answers if status == 429)


def test_a_killed_worker_costs_the_request_in_flight_a_503_and_is_started_again(server):
    restarts = server.counter("medground_worker_restarts_total")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(server.ground(SLOW, "Which?")))
    thread.start()
    server.wait_for(lambda: server.counter("medground_pending") == 1)
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)
    thread.join(SECONDS)
    assert answers[0][0] == 503 and answers[0][1]["error"] == "the worker ended and is started again"
    server.wait_ready()
    assert server.counter("medground_worker_restarts_total") == restarts + 1
    assert server.children() != [worker]


def test_a_worker_killed_while_idle_is_started_again_without_a_request(server):
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)
    server.wait_for(lambda: server.children() not in ([], [worker]))
    server.wait_ready()


def test_a_client_that_leaves_costs_no_further_stage(server):
    cancelled = server.counter("medground_cancelled_total")
    body, kind = form({"question": "Which?"}, SLOW)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": kind, "Accept": "text/event-stream"}
    connection.request("POST", "/ground", body, headers)
    answer = connection.getresponse()
    assert b"event: queue" in answer.readline()
    answer.close()
    connection.close()
    server.wait_for(lambda: server.counter("medground_cancelled_total") == cancelled + 1)


def test_multipart_without_its_closing_boundary_is_refused(server):
    body, _ = form({"question": "Which?"}, PICTURE)
    answer = exchange(server, raw(server, body.removesuffix(b"--limit--\r\n")))
    assert answer.startswith(b"HTTP/1.1 400") and b"closing boundary" in answer


def test_a_picture_that_claims_too_many_pixels_is_refused_from_its_header(server):
    bomb = bytearray(png_bytes(np.zeros((8, 8), np.uint8)))
    bomb[16:24] = struct.pack(">II", 7000, 7000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    status, answer = server.ground(bytes(bomb), "Which?")
    assert status == 422 and "49000000 pixels" in answer["error"]


def test_an_upload_above_the_limit_is_refused_before_it_is_read(server):
    answer = exchange(server, raw(server, b"--limit\r\n", length=10**10))
    assert answer.startswith(b"HTTP/1.1 413")


def test_chunked_uploads_are_cut_off_at_the_limit(server):
    head = raw(server, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    start = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunk = b"%x\r\n%s\r\n" % (2**16, b"x" * 2**16)
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        connection.sendall(head + b"%x\r\n%s\r\n" % (len(start), start))
        try:
            for _ in range(1000):  # 65 MB
                connection.sendall(chunk)
            ended = False
        except OSError:
            ended = True
        answer = b"" if ended else connection.recv(100)
    assert ended or answer.startswith(b"HTTP/1.1 413")


def test_half_open_connections_are_closed_and_do_not_keep_others_out(server):
    """Three hundred of them, more than the server keeps: half a header each, and one byte more after a while."""
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) for _ in range(300)]
    for connection in connections:
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        except OSError:  # above the limit: closed at once
            continue
    for connection in connections:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
        connection.close()
    assert server.get("/health")[0] == 200


def mutant(rng, body):
    """Return a body with bytes cut, repeated or replaced."""
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(data) or 1), rng.randint(1, 40)
        match rng.randrange(4):
            case 0:
                del data[at : at + size]
            case 1:
                data[at:at] = data[at : at + size]
            case 2:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                data[at:at] = rng.choice(
                    [b"\r\n", b"--limit", b"--limit--", b"\0", b'filename="', b"; name*=", b"\r\n\r\n"]
                )
    return bytes(data)


def fuzz(server, count, seed):
    """Send mutants of an upload; return the statuses. None needs the worker: the image is not there."""
    rng = random.Random(seed)
    body, _ = form({"question": "Which?", "image": "none", "slice": "1"}, None)
    upload, _ = form({}, b"GIF89a" + bytes(200))
    statuses = []
    for index in range(count):
        path = "/ground" if index % 2 else "/images"
        kind = "multipart/form-data; boundary=" + rng.choice(
            ["limit"] * 8 + ["", "lim", '"limit', "limit\u00e4", "limit; x"]
        )
        status, _, text = server.request("POST", path, mutant(rng, body if index % 2 else upload), Content_Type=kind)
        statuses.append(status)
        assert status < 500 and b"Traceback" not in text, (status, text)
    return statuses


def test_malformed_multipart_is_never_a_failure_of_the_server(server):
    statuses = fuzz(server, 300, seed=0)
    assert set(statuses) <= {201, 400, 404, 422} and statuses.count(400) > 50


@pytest.mark.soak
def test_malformed_multipart_is_never_a_failure_of_the_server_in_full(server):
    fuzz(server, 20_000, seed=1)


def test_sigterm_lets_the_running_request_end_and_exits_with_0(tmp_path):
    server = Server(folder=tmp_path).wait_ready()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(server.ground(SLOW, "Which?")))
    thread.start()
    server.wait_for(lambda: server.counter("medground_pending") == 1)
    assert server.stop() == 0
    thread.join(SECONDS)
    assert answers[0][0] == 200
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith("medground-serve-")]


def test_a_recipe_whose_weights_are_missing_ends_the_command_with_the_worker_s_sentence(tmp_path):
    server = Server("infer/toy", "segmenter=medsam", "segmenter.checkpoint=nowhere.pth", "prompt=box", folder=tmp_path)
    assert server.process.wait(SECONDS) in (2, 3, 4)
    assert "nowhere.pth" in server.log.read_text()
    server.stop()


def test_a_file_that_is_no_image_is_refused(server):
    status, _ = server.ground(b"not an image", "Which?")
    assert status == 422
