"""Retries, deadlines, addresses, keys and certificates."""

import os
import pickle
import socket
import threading
import time
from dataclasses import replace

import pytest
from medground_openai import client
from medground_openai.client import Client, NotAnswered
from medground_openai.reasoner import OpenAIReasoner
from openai_servers import KEY, answer, choice, conversation, reply

from medground.errors import RecipeError
from medground.types import Fault, Sampling


def ask(reasoner):
    return reasoner.generate([conversation()], Sampling())[0][0]


def always(status, **headers):
    return lambda handler, request: reply(handler, b"", status, **headers)


def test_waits_grow_with_full_jitter_up_to_a_bound(serve, make, clock):
    stub = serve(always(503))
    reasoner = make(stub, retries=9, deadline=1e6)
    reasoner.client = replace(reasoner.client, draw=lambda: 1.0)
    assert ask(reasoner).fault is Fault.TRANSPORT
    assert clock.waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    clock.waits.clear()
    reasoner.client = replace(reasoner.client, draw=lambda: 0.25)
    ask(reasoner)
    assert clock.waits[:3] == [0.125, 0.25, 0.5]
    assert len(stub.received) == 20


def test_no_wait_is_shorter_than_retry_after(serve, make, clock):
    reasoner = make(serve(always(429, Retry_After="40")), retries=3, deadline=1e6)
    ask(reasoner)
    assert len(clock.waits) == 3 and all(40 <= wait <= 42 for wait in clock.waits)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("12", 12, 12),
        ("1.5", 1.5, 1.5),
        ("Thu, 01 Jan 1970 01:00:00 GMT", 3600 - 60, 3600 - 60),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 0, 0),
        *[(nonsense, 0, 0) for nonsense in ("", "soon", "-4", "1e999", "nan", "9" * 40, "Mon, 99 Foo 99999 00:00")],
    ],
)
def test_retry_after_is_seconds_or_a_date(text, low, high, monkeypatch):
    monkeypatch.setattr(client.time, "time", lambda: 60.0)
    assert low <= client._retry_after(text) <= high


def test_the_deadline_holds_for_all_attempts_together(serve, make, clock):
    stub = serve(always(429, Retry_After="40"))
    result = ask(make(stub, retries=100, deadline=100))
    assert len(stub.received) == 3, "at 0, 40 and 80 seconds; the next would be beyond 100"
    assert result.fault is Fault.TRANSPORT and "429" in result.cause
    assert clock.now < 100


def test_an_attempt_ends_by_the_deadline_even_where_its_own_timeout_is_longer(serve, make, clock):
    def late(handler, request):
        clock.advance(50)
        answer(handler, request)

    stub = serve(late)
    result = ask(make(stub, timeout=1000, deadline=49))
    assert result.fault is Fault.TIMEOUT and len(stub.received) == 1


def test_a_silent_server_times_out(serve, make):
    """This test uses the real clock, because the operating system must end the wait."""
    leave = threading.Event()
    stub = serve(lambda handler, request: leave.wait(60))
    reasoner = make(stub, timeout=0.2, retries=0)
    reasoner.client = replace(reasoner.client, clock=time.monotonic)
    assert ask(reasoner).fault is Fault.TIMEOUT
    leave.set()


def test_a_closed_port_is_a_transport_fault(make, serve):
    with socket.socket() as taken:  # bound, never listening
        taken.bind(("127.0.0.1", 0))
        reasoner = make(serve(), retries=1)
        reasoner.client = replace(reasoner.client, url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1/chat/completions")
        result = ask(reasoner)
    assert result.fault is Fault.TRANSPORT and "refused" in result.cause.lower()


def test_an_error_sent_before_the_request_was_read_is_reported(make, serve):
    """The server answers 413 and stops reading; the fault is its answer and not the broken pipe."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def refuse():
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1 << 20):
                    pass

        threading.Thread(target=refuse, daemon=True).start()
        reasoner = make(serve(), retries=0)
        reasoner.client = replace(
            reasoner.client, url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1/chat/completions"
        )
        assert "413" in ask(reasoner).cause


def test_a_response_is_read_up_to_the_cap(serve, make, monkeypatch):
    monkeypatch.setattr(client, "MAX_BYTES", 10_000)
    result = ask(make(serve(lambda handler, request: reply(handler, b" " * 20_000 + b"{}")), retries=0))
    assert result.fault is Fault.TRANSPORT and "longer than" in result.cause


def test_proxies_of_the_environment_are_not_used(serve, make, monkeypatch):
    stub, proxy = serve(), serve()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    assert ask(make(stub)).fault is None
    assert len(stub.received) == 1 and not proxy.received


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/v1",
        "ftp://host/v1",
        "file:///etc/passwd",
        "https://",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://ho st/v1",
        "http://host/v1\r\nX-Evil: 1",
        "http://hóst/v1",
        f"https://me:{KEY}@host/v1",
        f"https://host/v1?key={KEY}",
        f"https://host/v1#{KEY}",
    ],
)
def test_an_invalid_address_is_refused_without_showing_the_key(url):
    with pytest.raises(RecipeError) as caught:
        OpenAIReasoner(base_url=url, model="m")
    assert KEY not in str(caught.value)


def test_a_trailing_slash_is_ignored(serve, make):
    stub = serve()
    stub.url += "/"
    assert ask(make(stub)).fault is None
    assert stub.received[0]["path"] == "/v1/chat/completions"


@pytest.mark.parametrize("value", [None, "", "two words", "line\nbreak", "schlüssel"])
def test_a_malformed_key_is_refused_and_not_shown(value, monkeypatch):
    monkeypatch.delenv("MEDGROUND_SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MEDGROUND_SOME_KEY", value)
    with pytest.raises(RecipeError, match="MEDGROUND_SOME_KEY") as caught:
        OpenAIReasoner(model="m", api_key_env="MEDGROUND_SOME_KEY")
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize("pasted", [KEY, "sk-abcDEF123", ""])
def test_a_key_given_as_the_name_of_its_variable_is_refused_and_not_shown(pasted):
    with pytest.raises(RecipeError) as caught:
        OpenAIReasoner(model="m", api_key_env=pasted)
    assert not pasted or pasted not in str(caught.value)


def spread(text):
    """Put a letter that is not seen, a space or a line's end after every letter."""
    return "".join(letter + "\u200b\u2060 \n"[index % 4] for index, letter in enumerate(text))


@pytest.mark.parametrize("echo", [KEY, spread(KEY), "\ufeff".join(KEY)])
def test_a_server_that_echoes_the_key_is_not_quoted(serve, make, echo):
    body = {"error": {"message": f"who is {echo}?"}}
    result = ask(make(serve(lambda handler, request: reply(handler, body, 400))))
    assert result.cause == "the server answered 400"


@pytest.mark.parametrize("echo", [KEY, spread(KEY)])
def test_an_answer_that_echoes_the_key_holds_a_word_in_its_place(serve, make, echo):
    stub = serve(lambda handler, request: reply(handler, {"choices": [choice(f"<think>{echo}!</think>")]}))
    assert ask(make(stub)).text.replace(" ", "").replace("\n", "").replace("\u200b", "") == "<think>[key]!</think>"


def test_a_short_key_of_a_local_server_is_an_ordinary_word(serve, make, monkeypatch):
    monkeypatch.setenv("MEDGROUND_CANARY_KEY", "EMPTY")
    stub = serve(lambda handler, request: reply(handler, {"choices": [choice("EMPTY space")]}))
    assert ask(make(stub)).text == "EMPTY space"


@pytest.mark.parametrize(
    "variable", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "openai_api_key", "MEDGROUND_", "XOPENAI_API_KEY"]
)
def test_a_key_is_read_from_no_other_variable(variable, monkeypatch):
    monkeypatch.setenv(variable, "anything")
    with pytest.raises(RecipeError, match="neither OPENAI_API_KEY, OPENROUTER_API_KEY nor"):
        OpenAIReasoner(model="m", api_key_env=variable)


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OPENROUTER_API_KEY", "MEDGROUND_GEMINI_KEY"])
def test_a_key_is_read_from_the_variables_for_keys(variable, monkeypatch, serve, make):
    monkeypatch.setenv(variable, "sk-123456789")
    stub = serve()
    ask(make(stub, api_key_env=variable))
    assert stub.received[0]["key"] == "Bearer sk-123456789"


def test_the_key_is_stored_in_no_object(serve, make):
    reasoner = make(serve())
    ask(reasoner)
    assert KEY not in repr(reasoner) + repr(reasoner.client) + str(vars(reasoner))
    plain = OpenAIReasoner(base_url=reasoner.base_url, model="m", frame="unit", api_key_env="MEDGROUND_CANARY_KEY")
    pickled = pickle.dumps(plain)
    assert KEY.encode() not in pickled
    assert pickle.loads(pickled).frame((80, 80)) == plain.frame((80, 80))


def test_without_a_variable_no_key_is_sent(serve, make):
    stub = serve()
    ask(make(stub, api_key_env=None))
    assert stub.received[0]["key"] is None


def test_an_untrusted_certificate_receives_neither_key_nor_pixels(encrypted, make):
    client._trust.cache_clear()
    result = ask(make(encrypted))
    assert result.fault is Fault.TRANSPORT and "certificate" in result.cause
    assert encrypted.received == []


def test_a_trusted_certificate_works(encrypted, make, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(certificate[1]))
    client._trust.cache_clear()
    result = ask(make(encrypted))
    client._trust.cache_clear()
    assert result.fault is None and result.text
    assert encrypted.received[0]["key"] == f"Bearer {KEY}"


def test_a_client_that_has_no_time_left_does_not_connect(serve):
    stub = serve()
    requests = Client(url=f"{stub.url}/chat/completions", api_key_env=None, timeout=5, deadline=0, retries=3)
    with pytest.raises(NotAnswered) as caught:
        requests.post({}, lambda status, body: body)
    assert caught.value.fault is Fault.TIMEOUT and not stub.received


@pytest.mark.parametrize("body", [{"error": {"message": "no"}}, [{"error": {"message": "no"}}], {"message": "no"}])
def test_the_error_message_of_a_server_is_shown_from_any_nesting(serve, make, body):
    result = ask(make(serve(lambda handler, request: reply(handler, body, 400))))
    assert result.cause == "the server answered 400, saying 'no'"
