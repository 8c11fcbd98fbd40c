"""Fixtures: servers on loopback, and a reasoner on the test's clock."""

import contextlib
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from medground_openai import client
from medground_openai.reasoner import OpenAIReasoner
from openai_servers import KEY, Clock, Stub, answer


@pytest.fixture
def serve() -> Iterator[Callable[..., Stub]]:
    """``serve(behave)`` starts a server; the end of the test stops all of them."""
    servers = []

    def start(behave: Callable[..., None] = answer) -> Stub:
        stub = Stub(behave)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.raw.append(self.requestline.encode() + b"\n" + bytes(self.headers) + body)
                request = json.loads(body)
                stub.received.append({**request, "path": self.path, "key": self.headers.get("Authorization")})
                self.close_connection = True
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
                    stub.behave(self, request)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, address: Any) -> None:
                """A socket the behaviour closed itself."""

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        return stub

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock, monkeypatch) -> Callable[..., OpenAIReasoner]:
    """``make(stub, **arguments)`` builds a reasoner with its key in the environment, on the test's clock."""
    monkeypatch.setenv("MEDGROUND_CANARY_KEY", KEY)

    def built(stub: Stub, **arguments: Any) -> OpenAIReasoner:
        given = {
            "model": "stub",
            "frame": "permille",
            "api_key_env": "MEDGROUND_CANARY_KEY",
            "side_multiple": 8,
            **arguments,
        }
        reasoner = OpenAIReasoner(base_url=stub.url, **given)
        draw = random.Random(0).random
        reasoner.client = replace(reasoner.client, clock=clock, sleep=clock.sleep, draw=draw)
        return reasoner

    return built


@pytest.fixture
def certificate(tmp_path):
    """Create a self-signed certificate for localhost that no store trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, pem = tmp_path / "key.pem", tmp_path / "cert.pem"
    wanted = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"]
    command = ["openssl", "req", "-x509", *wanted, "subjectAltName=DNS:localhost,DNS:model.example,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True)
    return key, pem


@pytest.fixture
def encrypted(serve, certificate):
    """Start a server with TLS."""
    stub = serve()
    port = int(stub.url.rpartition(":")[2].removesuffix("/v1"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    listening = socket.create_server(("127.0.0.1", 0))

    def forward(peer):
        with peer, socket.create_connection(("127.0.0.1", port)) as inner:
            try:
                outer = context.wrap_socket(peer, server_side=True)
            except (ssl.SSLError, OSError):
                return
            threading.Thread(target=pump, args=(outer, inner), daemon=True).start()
            pump(inner, outer)
            outer.close()

    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass

    def accept():
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=forward, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    stub.url = f"https://127.0.0.1:{listening.getsockname()[1]}/v1"
    yield stub
    listening.close()


@pytest.fixture
def trusted(certificate, monkeypatch):
    """Trust the certificate for localhost and model.example."""
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(certificate[1]))
    client._trust.cache_clear()
    yield
    client._trust.cache_clear()
