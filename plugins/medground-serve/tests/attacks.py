"""What a server must stand, in counts to choose: kills, malformed bodies, half-open connections, endless uploads, bombs.

Each returns what it saw; the tests judge it, and benchmarks/serve_faults.py writes it down.
"""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from serving import SECONDS, Server, form

from medground.images.pictures import png_bytes

PICTURE = png_bytes(np.where(np.hypot(*np.ogrid[-40:40, -50:50]) < 12, 200, 40).astype(np.uint8))
QUESTION = "Which spot is bright?"


def connect(server: Server) -> socket.socket:
    """Return a connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)


def raw(
    server: Server, body: bytes, kind: str = "multipart/form-data; boundary=limit", length: int | None = None
) -> bytes:
    """Return a request to /ground as bytes."""
    size = len(body) if length is None else length
    head = f"POST /ground HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\nConnection: close\r\n"
    return f"{head}Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode() + body


def kill(server: Server) -> tuple[int, Any]:
    """Kill the worker while a request is in flight; return its status and answer once the models are loaded again."""
    answers: list[tuple[int, Any]] = []
    with server.stopped_worker() as worker:
        thread = threading.Thread(target=lambda: answers.append(server.ground(PICTURE, QUESTION)))
        thread.start()
        server.wait_for(lambda: server.counter("medground_pending") == 1)
        os.kill(worker, signal.SIGKILL)
        thread.join(SECONDS)
    server.wait_for(lambda: server.children() not in ([], [worker]))
    server.wait_ready()
    return answers[0]


def half_open(server: Server, count: int) -> dict[str, float]:
    """Open connections with half a header each, and ask while they are open; more files may be open than usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 200)), hard))
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            connection = opened.enter_context(connect(server))
            with contextlib.suppress(OSError):  # one that was closed to make room
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"x" * 8000)
        page = server.get("/", token="")[0]
        answer = server.ground(PICTURE, QUESTION)[0]
        files = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    return {"page": page, "answer": answer, "files": files, "server_mb": server.memory()}


def endless_upload(server: Server, total: int) -> dict[str, Any]:
    """Send a chunked upload until the server cuts it off; return the bytes sent and the most of them on disk."""
    head = raw(server, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    start = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunk = b"%x\r\n%s\r\n" % (2**16, b"x" * 2**16)
    sent, most, before = 0, 0, stored_bytes(server)
    with connect(server) as connection, contextlib.suppress(OSError):
        connection.sendall(head + b"%x\r\n%s\r\n" % (len(start), start))
        while sent < total:
            connection.sendall(chunk)
            sent += 2**16
            most = max(most, stored_bytes(server) - before)
    return {"sent": sent, "most_on_disk": most, "server_mb": server.memory()}


def stored_bytes(server: Server) -> int:
    """Return the bytes of regular files that the server has open or stored, unlinked ones included."""
    files = {path.stat() for path in server.log.parent.glob("medground-serve-*/*/*")}
    for entry in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "(deleted)" in os.readlink(entry):
                files.add(entry.stat())
    return sum(file.st_size for file in files)


def mutant(rng: random.Random, body: bytes) -> bytes:
    """Return a body with bytes cut, repeated or replaced."""
    data = bytearray(body)
    words = [
        b"\r\n",
        b"--limit",
        b"--limit--",
        b"\0",
        b'filename="',
        b"; name*=",
        b"\r\n\r\n",
        b"1e999",
        b"[",
        b'"',
        b"NaN",
    ]
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
                data[at:at] = rng.choice(words)
    return bytes(data)


def fuzz(server: Server, count: int, seed: int) -> dict[int, int]:
    """Send mutants of forms and of JSON; return how often each status came. None needs the worker: the image is not there.

    Raises:
        AssertionError: at a failure of the server.
    """
    rng = random.Random(seed)
    image = {"image": "none", "box": [1, 2, 3, 4], "points": [[1, 2]], "labels": [1]}
    url = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}
    chat = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Which?"}, url]}], "n": 1}
    bodies = {
        "/ground": form({"question": "Which?", "image": "none", "slice": "1"}, None)[0],
        "/images": form({}, b"GIF89a" + bytes(200))[0],
        "/segment": json.dumps(image).encode(),
        "/v1/chat/completions": json.dumps(chat).encode(),
    }
    boundaries = ["limit"] * 8 + ["", "lim", '"limit', "limit\u00e4", "limit; x", "x; boundary*=bogus''limit"]
    statuses: dict[int, int] = {}
    for _ in range(count):
        path = list(bodies)[rng.choice([0, 0, 0, 1, 1, 1, 2, 3])]
        kind = "application/json"
        if bodies[path].startswith(b"--"):
            kind = "multipart/form-data; boundary=" + rng.choice(boundaries)
        status, _, text = server.request("POST", path, mutant(rng, bodies[path]), Content_Type=kind)
        assert status < 500 and b"Traceback" not in text, (status, text)
        statuses[status] = statuses.get(status, 0) + 1
    return statuses


def bombs() -> dict[str, tuple[bytes, str]]:
    """Return small uploads that claim or unfold to far more than may be read: what -> (content, file name)."""
    pixels = bytearray(png_bytes(np.zeros((8, 8), np.uint8)))
    pixels[16:24] = struct.pack(">II", 7000, 7000)
    pixels[29:33] = struct.pack(">I", zlib.crc32(bytes(pixels[12:29])))
    text = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000), 9))
    profile = _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(20_000_000), 9))
    plain = png_bytes(np.zeros((8, 8), np.uint8))
    header = bytearray(348)
    struct.pack_into("<i8h", header, 0, 348, *[0] * 8)
    struct.pack_into("<8h", header, 40, 3, 30_000, 30_000, 30_000, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 64, 64)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<f", header, 108, 352.0)
    struct.pack_into("<2h", header, 252, 1, 1)
    header[344:348] = b"n+1\0"
    return {
        "PNG of 49 megapixels": (bytes(pixels), "a.png"),
        "PNG with a text of 20 MB": (plain[:33] + text + plain[33:], "a.png"),
        "PNG with a profile of 20 MB": (plain[:33] + profile + plain[33:], "a.png"),
        "NIfTI of 216 TB": (bytes(header) + bytes(4), "a.nii"),
        "gzip of a NIfTI": (unfolding(1_000_000_000, 31, bytes(header)), "a.nii.gz"),
        "gzip of nothing": (unfolding(1_000_000_000, 31), "a.nii.gz"),
        "deflated DICOM": (_dicom_start() + unfolding(1_000_000_000, -15), "a.dcm"),
        "zip": (b"PK\3\4" + unfolding(1_000_000_000, -15), "a.zip"),
    }


def unfolding(size: int, wbits: int, start: bytes = b"") -> bytes:
    """Return data that inflates to `start` and then zeros, `size` bytes in all, from a thousandth of them."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, wbits)
    head = compressor.compress(start) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(bytes(2**24)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size // 2**24)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _dicom_start() -> bytes:
    """Return preamble and file meta information of a deflated DICOM file."""
    syntax = b"1.2.840.10008.1.2.1.99"
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element))
    return bytes(128) + b"DICM" + length + element
