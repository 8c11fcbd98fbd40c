"""A server is reached through a proxy where the user names one, and not otherwise."""

import contextlib
import socket
import threading
import time
from dataclasses import replace

import pytest
from medground_openai import client
from medground_openai.reasoner import OpenAIReasoner
from openai_servers import KEY, conversation

from medground.errors import RecipeError
from medground.types import Fault, Sampling


def ask(reasoner):
    return reasoner.generate([conversation()], Sampling())[0][0]


class Proxy:
    """A proxy that connects every host to one port of this machine, and keeps what passes."""

    def __init__(self, port, answer=b"HTTP/1.1 200 Connection established\r\n\r\n"):
        self.port, self.answer, self.asked, self.passed = port, answer, [], b""
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        with peer:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := peer.recv(65536)):
                    return
                head += piece
            self.asked.append(head.decode())
            peer.sendall(self.answer)
            if b" 200 " not in self.answer:
                return
            with socket.create_connection(("127.0.0.1", self.port)) as target:
                threading.Thread(target=self.pump, args=(target, peer), daemon=True).start()
                self.pump(peer, target)

    def pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.passed += data
                sink.sendall(data)


@pytest.fixture
def proxied(encrypted, trusted, make):
    """``proxied(answer)`` returns a proxy, and a reasoner that reaches its server through it alone."""
    proxies = []

    def build(*answer, **arguments):
        port = int(encrypted.url.rpartition(":")[2].removesuffix("/v1"))
        proxies.append(Proxy(port, *answer))
        encrypted.url = "https://model.example/v1"
        return proxies[-1], make(
            encrypted, **{"proxy": proxies[-1].url, "allow_upload": True, "retries": 0} | arguments
        )

    yield build
    for proxy in proxies:
        proxy.listening.close()


def test_a_proxy_passes_on_what_it_cannot_read(proxied, encrypted):
    proxy, reasoner = proxied()
    result = ask(reasoner)
    assert result.fault is None and result.text
    (head,) = proxy.asked
    assert head == "CONNECT model.example:443 HTTP/1.1\r\nHost: model.example:443\r\nUser-Agent: medground\r\n\r\n"
    assert encrypted.received[0]["key"] == f"Bearer {KEY}"
    assert len(proxy.passed) > 1000 and KEY.encode() not in proxy.passed and b"image_url" not in proxy.passed


def test_a_certificate_is_checked_through_a_proxy_too(proxied, encrypted, monkeypatch):
    _, reasoner = proxied()
    monkeypatch.delenv("SSL_CERT_FILE")
    client._trust.cache_clear()
    result = ask(reasoner)
    assert result.fault is Fault.TRANSPORT and "certificate" in result.cause
    assert encrypted.received == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 407 No\r\n\r\n", "answered 407 to a connection to model.example:443: it wants a password"),
        (b"HTTP/1.1 403 No\r\n\r\n", "answered 403 to a connection to model.example:443: it does not allow this"),
        (b"HTTP/1.1 404 What\r\n\r\n", "answered 404 to a connection to model.example:443"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not answer as one: BadStatusLine"),
    ],
)
def test_a_wrong_proxy_is_one_sentence(proxied, encrypted, answer, says):
    proxy, reasoner = proxied(answer, retries=3)
    result = ask(reasoner)
    assert result.fault is Fault.TRANSPORT and result.cause.startswith(f"the proxy {proxy.url} {says}")
    assert "\n" not in result.cause and len(proxy.asked) == 1, "another attempt would end likewise"
    assert encrypted.received == []


def test_a_proxy_that_is_not_there_is_one_sentence(proxied):
    with socket.socket() as taken:  # bound, never listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = ask(proxied(proxy=url)[1])
    assert result.fault is Fault.TRANSPORT
    assert result.cause == f"the proxy {url} cannot be reached: Connection refused"


def test_a_silent_proxy_times_out(proxied):
    """This test uses the real clock, because the operating system must end the wait."""
    _, reasoner = proxied(b"HTTP/1.1 200 half a line", timeout=0.2)
    reasoner.client = replace(reasoner.client, clock=time.monotonic)
    assert ask(reasoner).fault is Fault.TIMEOUT


@pytest.mark.parametrize(
    ("proxy", "base_url", "says"),
    [
        ("proxy:3128", "https://model.example/v1", "is not the address of a proxy"),
        ("http://proxy", "https://model.example/v1", "is not the address of a proxy"),
        ("https://proxy:3128", "https://model.example/v1", "is not the address of a proxy"),
        ("socks5://proxy:1080", "https://model.example/v1", "is not the address of a proxy"),
        (f"http://me:{KEY}@proxy:3128", "https://model.example/v1", "more than a host and a port"),
        ("http://proxy:3128/path", "https://model.example/v1", "more than a host and a port"),
        ("http://proxy:3128", "http://model.example/v1", "a proxy would see what is sent to http://model.example/v1"),
        ("http://proxy:3128", "http://127.0.0.1:8000/v1", "a proxy would see what is sent to http://127.0.0.1:8000/v1"),
    ],
)
def test_an_unusable_proxy_is_refused_before_anything_is_sent(proxy, base_url, says):
    with pytest.raises(RecipeError, match=says) as caught:
        OpenAIReasoner(base_url=base_url, model="m", allow_upload=True, proxy=proxy)
    assert KEY not in str(caught.value)


def test_the_notice_of_what_leaves_names_the_proxy(caplog):
    OpenAIReasoner(base_url="https://noticed.example/v1", model="m", allow_upload=True, proxy="http://proxy:3128/")
    assert "go to https://noticed.example/v1, through the proxy http://proxy:3128; file names" in caplog.text
