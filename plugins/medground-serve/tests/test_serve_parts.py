"""Parts of the server that need no socket: the image store, deadlines of bodies, and names of hosts."""

import asyncio
import io

import pytest
from medground_serve.command import LOOPBACK, _hosts
from medground_serve.guard import Guard
from medground_serve.metrics import Metrics
from medground_serve.settings import Refusal, Settings
from medground_serve.store import ImageStore
from starlette.exceptions import HTTPException

from medground.errors import UsageError


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def store(tmp_path, clock):
    return ImageStore(tmp_path, most_bytes=100, seconds=10, clock=lambda: clock[0])


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


@pytest.mark.parametrize(
    ("name", "stored"),
    [("../../evil.png", "image"), ("Anna.nii.gz", "image.nii.gz"), ("A\0.DCM", "image.dcm"), ("", "image")],
)
def test_of_a_name_only_a_known_suffix_is_used(store, tmp_path, name, stored):
    path = store.path(store.put(io.BytesIO(b"a"), name))
    assert path.name == stored and path.parent.parent == tmp_path


def test_files_of_a_series_are_one_image_that_is_deleted_as_a_whole(store, tmp_path):
    key = store.put_series([(io.BytesIO(bytes(30)), "../A.DCM"), (io.BytesIO(bytes(30)), "Anna")])
    path = store.path(key)
    assert sorted(one.name for one in path.iterdir()) == ["0000.dcm", "0001"] and store.bytes == 60
    store.put(io.BytesIO(bytes(60)), "b")
    assert len(store) == 1 and not path.parent.exists()


def test_a_full_disk_is_said_and_leaves_nothing(store, tmp_path):
    class Full(io.BytesIO):
        def read(self, size=-1):
            raise OSError(28, "No space left on device")

    with pytest.raises(Refusal, match="No space left") as caught:
        store.put(Full(), "a.png")
    assert caught.value.status == 507 and not list(tmp_path.iterdir()) and len(store) == 0


def body_of(settings, messages, content_type=b"text/plain"):
    """Read a whole body through the guard."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    async def receive():
        return await messages()

    async def run():
        guard = Guard(app, settings, Metrics())
        bounded = guard._bounded({"headers": [(b"content-type", content_type)]}, receive)
        await app({}, bounded, None)

    asyncio.run(run())


def settings(**values):
    return Settings(recipe="", token="t", hosts=LOOPBACK, **values)


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


def test_listening_on_every_address_needs_the_name_that_browsers_use():
    with pytest.raises(UsageError, match="every address"):
        _hosts("0.0.0.0", ())
    assert _hosts("0.0.0.0", ("Scans.Local",)) >= {"scans.local", "localhost"}
    assert _hosts("fd00::1", ()) >= {"[fd00::1]"}
