"""Parts of the server that need no socket: the image store, deadlines of bodies, and names of hosts."""

import asyncio
import hmac
import io
import os
import tempfile

import pytest
import uvicorn
from medground_serve.app import _say
from medground_serve.body import Body
from medground_serve.command import LOOPBACK, _hosts
from medground_serve.folder import PREFIX, private_folder
from medground_serve.guard import Guard
from medground_serve.listening import DrainingServer, bind
from medground_serve.metrics import Metrics
from medground_serve.settings import Refusal, Settings
from medground_serve.store import ImageStore
from starlette.exceptions import HTTPException
from uvicorn.lifespan.off import LifespanOff

from medground.errors import RunError, UsageError


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def store(tmp_path, clock):
    return ImageStore(tmp_path, most_bytes=100, most_images=4, seconds=10, clock=lambda: clock[0])


def test_an_image_expires_when_it_is_not_used_and_lives_on_when_it_is(store, clock, tmp_path):
    used, unused = store.put(io.BytesIO(b"a"), "a.png"), store.put(io.BytesIO(b"b"), "b.png")
    clock[0] = 8
    store.path(used)
    clock[0] = 15
    assert store.path(used).read_bytes() == b"a"
    with pytest.raises(Refusal, match="no such image"):
        store.path(unused)
    assert len(list(tmp_path.iterdir())) == len(store) == 1


def test_the_image_that_was_not_used_for_longest_makes_room(store):
    first, second = store.put(io.BytesIO(bytes(40)), "a"), store.put(io.BytesIO(bytes(40)), "b")
    store.path(first)
    third = store.put(io.BytesIO(bytes(40)), "c")
    assert store.path(first) and store.path(third) and store.bytes == 80
    with pytest.raises(Refusal):
        store.path(second)


def test_images_are_bounded_in_number_too(store, tmp_path):
    first, *others = [store.put(io.BytesIO(b"a"), "a") for _ in range(5)]
    assert len(store) == len(list(tmp_path.iterdir())) == 4 and all(store.path(key) for key in others)
    with pytest.raises(Refusal):
        store.path(first)


@pytest.mark.parametrize(
    ("name", "stored"),
    [("../../evil.png", "image"), ("Anna.nii.gz", "image.nii.gz"), ("A\0.DCM", "image.dcm"), ("", "image")],
)
def test_of_a_name_only_a_known_suffix_is_used(store, tmp_path, name, stored):
    path = store.path(store.put(io.BytesIO(b"a"), name))
    assert path.name == stored and path.parent.parent == tmp_path


def test_files_of_a_series_are_one_image_that_is_deleted_as_a_whole(store, tmp_path):
    key = store.put_series([io.BytesIO(bytes(30)), io.BytesIO(bytes(30))])
    path = store.path(key)
    assert sorted(one.name for one in path.iterdir()) == ["00000.dcm", "00001.dcm"] and store.bytes == 60
    store.put(io.BytesIO(bytes(60)), "b")
    assert len(store) == 1 and not path.parent.exists()


def test_a_full_disk_is_said_and_leaves_nothing(store, tmp_path):
    class Full(io.BytesIO):
        def read(self, size=-1):
            raise OSError(28, "No space left on device")

    with pytest.raises(Refusal, match="No space left") as caught:
        store.put(Full(), "a.png")
    assert caught.value.status == 507 and not list(tmp_path.iterdir()) and len(store) == 0


def body_of(settings, messages, content_type=b"text/plain", others=()):
    """Read a whole body while others are on their way."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    async def receive():
        return await messages()

    async def run():
        await app({}, Body({"headers": [(b"content-type", content_type)]}, receive, settings, set(others)), None)

    asyncio.run(run())


def settings(**values):
    return Settings(recipe="", token="t", hosts=LOOPBACK, **values)


def test_all_bodies_together_are_bounded():
    class Other:
        size = 350

    async def block():
        return {"type": "http.request", "body": bytes(51), "more_body": False}

    body_of(settings(most_bytes=101), block, others=[Other()])
    with pytest.raises(HTTPException) as caught:
        body_of(settings(most_bytes=100), block, others=[Other()])
    assert caught.value.status_code == 503


def test_a_body_that_does_not_end_in_time_is_given_up():
    async def stalled():
        await asyncio.Event().wait()

    with pytest.raises(HTTPException) as caught:
        body_of(settings(body_seconds=0.05), stalled)
    assert caught.value.status_code == 408


@pytest.mark.parametrize(
    ("blocks", "complete"),
    [
        ([b"--b\r\n\r\nx\r\n--b--\r\n"], True),
        ([b"--b\r\n\r\nx\r\n--b-", b"-"], True),
        ([b"--b\r\n\r\nx\r\n--b\r\n"], False),
        ([b"--b\r\n\r\nx\r\n--bb--"], False),
        ([b""], False),
    ],
)
def test_a_multipart_body_needs_its_closing_boundary(blocks, complete):
    rest = [{"type": "http.request", "body": block, "more_body": True} for block in blocks]
    rest[-1]["more_body"] = False

    async def next_block():
        return rest.pop(0)

    read = lambda: body_of(settings(), next_block, b'multipart/form-data; boundary="b"')  # noqa: E731
    if complete:
        read()
        return
    with pytest.raises(HTTPException, match="closing boundary"):
        read()


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::"])
def test_listening_on_every_address_needs_the_name_that_browsers_use(host):
    with pytest.raises(UsageError, match="every address"):
        bind(host, 0)
    assert _hosts(host, ("Scans.Local",)) >= {"scans.local", "localhost"}


def test_an_address_is_a_name_of_its_own():
    assert _hosts("fd00::1", ()) >= {"[fd00::1]"}


@pytest.mark.parametrize("host", ["", "999.1.1.1", "a" * 300, "x\0y", "192.0.2.1", "127.0.0.1 "])
def test_a_host_that_is_not_this_machine_is_said(host):
    with pytest.raises(UsageError, match="of this machine") as caught:
        bind(host, 0)
    assert caught.value.hint == "pass --host 127.0.0.1"


def test_a_port_that_is_taken_is_said():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} of 127.0.0.1 is taken") as caught:
            bind("127.0.0.1", port)
    assert caught.value.hint == "pass --port 0"


def test_requests_that_still_run_when_the_server_must_end_are_answered_before_they_are_cut_off():
    async def run():
        closed = asyncio.Event()
        stopping = DrainingServer(uvicorn.Config(None, lifespan="off", timeout_graceful_shutdown=1), closed.set)
        stopping.servers, stopping.lifespan = [], LifespanOff(stopping.config)
        request = asyncio.create_task(closed.wait())
        stopping.server_state.tasks.add(request)
        request.add_done_callback(stopping.server_state.tasks.discard)
        await stopping.shutdown()
        return closed.is_set(), request.cancelled()

    assert asyncio.run(run()) == (True, False)


def test_what_fails_outside_of_requests_is_logged_without_its_text(caplog):
    _say(None, {"message": "Mueller", "exception": ValueError("Mueller")})
    assert "ValueError" in caplog.text and "Mueller" not in caplog.text


def test_folders_of_servers_that_were_killed_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with private_folder() as running:
        killed, new, other = tmp_path / f"{PREFIX}killed", tmp_path / f"{PREFIX}new", tmp_path / "other"
        for folder in (killed, new, other):
            (folder / "key").mkdir(parents=True)
        for folder in (killed, running, other):
            os.utime(folder, (1, 1))
        with private_folder() as second:
            assert second.is_dir() and second.stat().st_mode & 0o77 == 0
            assert set(tmp_path.iterdir()) == {running, second, new, other}
    assert set(tmp_path.iterdir()) == {new, other}


@pytest.mark.parametrize("token", ["t", "T", "", "tt"])
def test_a_token_is_compared_in_constant_time_and_as_a_whole(monkeypatch, token):
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *words: compared.append(words) or compare(*words))
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer " + token.encode())]
    scope = {"type": "http", "method": "GET", "path": "/info", "headers": headers}

    async def run():
        await Guard(app, settings(), Metrics())(scope, None, send)

    asyncio.run(run())
    assert sent[0]["status"] == (200 if token == "t" else 401) and compared == [(token.encode(), b"t")]
