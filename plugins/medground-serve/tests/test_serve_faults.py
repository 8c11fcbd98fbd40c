"""Clients that stall, flood, leave or lie, and a worker that dies: the server says so and goes on."""

import contextlib
import http.client
import json
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from attacks import PICTURE, QUESTION, bombs, connect, endless_upload, fuzz, half_open, kill, raw
from serving import SECONDS, Server, form

from medground.images.pictures import png_bytes

pytestmark = pytest.mark.slow
NOISE = png_bytes(np.random.default_rng(0).integers(0, 255, (1300, 1300), np.uint8))
"""A picture of 1.7 MB, which is more than the server holds in memory."""


@pytest.fixture(scope="module")
def servers():
    """The running server of this module, in a list; ended at the end."""
    running = []
    yield running
    assert all(server.stop() == 0 for server in running)


@pytest.fixture
def server(servers, tmp_path_factory):
    """A server with short limits; another one where a test ended it."""
    if not servers or servers[-1].process.poll() is not None:
        limits = {"header_seconds": 3, "body_seconds": 3, "send_seconds": 3}
        folder = tmp_path_factory.mktemp("faults")
        servers.append(Server("--waiting", "1", "--max-mb", "2", folder=folder, **limits).wait_ready())
    return servers[-1]


@pytest.fixture(autouse=True)
def still_serves(server):
    """After whatever happened, a question is answered, and no traceback is in the log."""
    yield
    log = server.log.read_text()
    assert "Traceback" not in log and "failed" not in log
    if server.process.poll() is None:
        server.wait_for(lambda: server.counter("medground_pending") == 0)
        server.wait_ready()
        status, answer = server.ground(PICTURE, QUESTION)
        assert status == 200 and answer["regions"]


def until_closed(connection):
    """Return what comes until the server closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while block := connection.recv(65536):
            answer += block
    return answer


def exchange(server, data):
    """Send bytes; return what comes back until the server closes."""
    with connect(server) as connection:
        connection.sendall(data)
        return until_closed(connection)


def test_more_requests_than_may_wait_are_refused_at_once_with_a_time_to_retry(server):
    body, kind = form({"question": QUESTION}, PICTURE)

    def ask(_):
        status, headers, _ = server.request("POST", "/ground", body, Content_Type=kind)
        return status, headers.get("retry-after")

    with ThreadPoolExecutor(8) as pool:
        with server.stopped_worker():
            answers = [pool.submit(ask, number) for number in range(8)]
            server.wait_for(lambda: sum(answer.done() for answer in answers) == 6)
        answers = [answer.result() for answer in answers]
    assert sorted(status for status, _ in answers) == [200] * 2 + [429] * 6
    assert all(int(seconds) >= 1 for status, seconds in answers if status == 429)


def test_a_killed_worker_costs_the_request_in_flight_a_503_and_is_started_again(server):
    restarts, worker = server.counter("medground_worker_restarts_total"), server.worker
    status, answer = kill(server)
    assert status == 503 and answer["error"] == "the worker ended and is started again"
    assert server.counter("medground_worker_restarts_total") == restarts + 1 and server.worker != worker


def test_a_worker_killed_while_idle_is_started_again_and_the_server_says_that_it_is_not_ready(server):
    worker = server.worker
    os.kill(worker, signal.SIGKILL)
    server.wait_for(lambda: server.children() not in ([], [worker]))
    with server.stopped_worker():
        status, _, text = server.get("/ready")
        assert status == 503 and json.loads(text) == {"ready": False} and server.get("/health")[0] == 200
    server.wait_ready()


@pytest.mark.soak
def test_fifty_kills_in_a_row_are_fifty_restarts(server):
    restarts, before = server.counter("medground_worker_restarts_total"), server.memory()
    assert [kill(server)[0] for _ in range(50)] == [503] * 50
    assert server.counter("medground_worker_restarts_total") == restarts + 50
    assert server.memory() < before + 20


def leave(server, accept):
    """Ask while the worker stands still, and leave."""
    body, kind = form({"question": QUESTION}, PICTURE)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": kind, "Accept": accept}
    connection.request("POST", "/ground", body, headers)
    server.wait_for(lambda: server.counter("medground_pending") == 1)
    connection.close()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_a_client_that_leaves_costs_no_further_stage(server, accept):
    cancelled = server.counter("medground_cancelled_total")
    with server.stopped_worker():
        leave(server, accept)
        server.wait_for(lambda: server.counter("medground_cancelled_total") == cancelled + 1)
    server.wait_for(lambda: server.counter("medground_pending") == 0)


def test_multipart_without_its_closing_boundary_is_refused(server):
    body, _ = form({"question": "Which?"}, PICTURE)
    answer = exchange(server, raw(server, body.removesuffix(b"--limit--\r\n")))
    assert answer.startswith(b"HTTP/1.1 400") and b"closing boundary" in answer


def test_clients_that_stall_are_cut_off_each_in_its_time(server):
    """Half a header, half a body, and a picture of which nothing is read."""
    image = server.upload(NOISE)[1]["image"]
    head = f"GET /images/{image} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
    with connect(server) as half_header, connect(server) as half_body, connect(server) as reader:
        half_header.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        half_body.sendall(raw(server, b"--limit\r\n", length=1000))
        for _ in range(10):  # 23 MB
            reader.sendall(head)
        assert until_closed(half_header) == b""
        assert until_closed(half_body).startswith(b"HTTP/1.1 408")
        with contextlib.suppress(OSError):
            reader.sendall(head)  # to send is not to read
        server.wait_for(lambda: connection_count(server) == 0)
        assert len(until_closed(reader)) < 10 * len(NOISE)


def connection_count(server):
    """Return how many connections to the server are open on its side."""
    rows = [line.split() for line in Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{server.port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\2\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 200_000,
        b"POST /images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /images HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(server, data):
    answer = exchange(server, data)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")) and b"Traceback" not in answer


def test_an_upload_above_the_limit_is_refused_before_it_is_read(server):
    answer = exchange(server, raw(server, b"--limit\r\n", length=10**10))
    assert answer.startswith(b"HTTP/1.1 413")


def test_chunked_uploads_are_cut_off_at_the_limit(server):
    seen = endless_upload(server, 65_000_000)
    assert seen["sent"] < 20_000_000 and seen["most_on_disk"] < 3_000_000


@pytest.mark.parametrize("most", [500_000, 1_200_000])
def test_a_full_disk_is_said(server, most):
    """A limit on the size of files refuses the write, first of the stored image, then of the upload on its way in."""
    picture = NOISE[:800_000] if most < 1_000_000 else NOISE
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, before[1]))
    status, answer = server.upload(picture)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
    assert status == 507 and "cannot be stored: File too large" in answer["error"]


def test_what_unfolds_to_more_than_may_be_read_is_refused_in_bounded_memory(server):
    for what, (content, name) in bombs().items():
        body, kind = form({"question": "Which?", "plane": "axial", "slice": "0"}, content, name=name)
        status, _, text = server.request("POST", "/ground", body, Content_Type=kind)
        assert status == 422 and b"Traceback" not in text, (what, status, text)
    assert server.memory(worker=True, peak=True) < 1500 and server.memory(peak=True) < 300


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.soak)])
def test_half_open_connections_do_not_keep_others_out(server, count):
    seen = half_open(server, count)
    assert seen["page"] == seen["answer"] == 200 and seen["files"] < 300


def test_malformed_requests_are_never_a_failure_of_the_server(server):
    statuses = fuzz(server, 300, seed=0)
    assert set(statuses) <= {201, 400, 404, 422} and statuses[400] > 30 and statuses[422] > 30


@pytest.mark.soak
def test_malformed_requests_are_never_a_failure_of_the_server_in_full(server):
    fuzz(server, 2000, seed=1)
    before = server.memory()
    fuzz(server, 20_000, seed=2)
    assert server.memory() < before + 30


def test_a_recipe_that_cannot_be_loaded_ends_the_command_with_its_sentence(tmp_path):
    words = ("infer/toy", "segmenter=medsam", "segmenter.checkpoint=nowhere.pth", "prompt=box")
    server = Server(*words, folder=tmp_path)
    assert server.process.wait(SECONDS) in (2, 3, 4) and "nowhere.pth" in server.log.read_text()
    server.stop()


def test_sigterm_lets_running_requests_and_streams_end_and_exits_with_0(server):
    def ask(accept):
        return server.ground(PICTURE, QUESTION, accept=accept)

    with ThreadPoolExecutor(2) as pool:
        with server.stopped_worker():
            whole, stream = pool.submit(ask, "*/*"), pool.submit(ask, "text/event-stream")
            server.wait_for(lambda: server.counter("medground_pending") == 2)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for(lambda: refuses(server))
        assert whole.result()[0] == 200 and "event: answer" in stream.result()[1]
    assert server.process.wait(SECONDS) == 0
    assert not list(server.log.parent.glob("medground-serve-*"))


def refuses(server):
    """Return whether nobody can connect any more."""
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False
