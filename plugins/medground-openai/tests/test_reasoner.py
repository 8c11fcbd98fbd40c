"""Requests, seeds, token counts and consent of the `openai` reasoner."""

import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from medground_openai import reasoner as module
from medground_openai.parallel import run_parallel
from medground_openai.reasoner import OpenAIReasoner
from openai_servers import answer, choice, conversation, decoded, reply

from medground.errors import RecipeError
from medground.frames import Frame
from medground.testing import check_reasoner
from medground.types import Fault, Sampling, image_of


@pytest.mark.lane
def test_the_reasoner_passes_the_conformance_kit(serve):
    check_reasoner(OpenAIReasoner, base_url=serve().url, model="stub", frame="permille", retries=0)


@pytest.mark.parametrize(("encoding", "head"), [("png", "data:image/png;base64"), ("jpeg", "data:image/jpeg;base64")])
def test_the_image_is_sent_at_the_size_of_its_frame(serve, make, encoding, head):
    stub = serve()
    reasoner = make(stub, image_format=encoding, max_image_side=200, side_multiple=28, frame="pixel")
    prompts_asked = conversation(size=(300, 400))
    (completion,) = reasoner.generate([prompts_asked], Sampling())[0]
    result, picture = decoded(stub.received[0])
    assert result == head
    assert completion.frame == Frame("pixel", (140, 196)) == reasoner.frame((300, 400))
    assert picture.size == (196, 140)
    content = stub.received[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]


def test_a_png_that_needs_no_resizing_is_sent_unchanged(serve, make):
    stub = serve()
    prompts_asked = conversation(size=(56, 64))
    make(stub).generate([prompts_asked], Sampling())
    _, picture = decoded(stub.received[0])
    assert np.array_equal(np.asarray(picture), image_of(prompts_asked))
    assert picture.info == {}, "chunks beside the pixels"


@given(
    st.integers(8, 3000), st.integers(8, 3000), st.sampled_from([64, 700, 1008, 2048]), st.sampled_from([14, 28, 32])
)
def test_sizes_sent_fit_the_grid_and_the_limit(height, width, side, multiple):
    if max(height, width) > 100 * min(height, width):
        return
    built = OpenAIReasoner(model="m", frame="pixel", max_image_side=side, side_multiple=multiple)
    rows, columns = built.seen((height, width))
    assert rows % multiple == columns % multiple == 0
    assert built.seen((rows, columns)) == (rows, columns) or max(rows, columns) > side
    if min(height, width) * side > 4 * multiple * max(height, width) and min(height, width) >= 4 * multiple:
        assert max(rows, columns) <= side + multiple / 2
        assert abs(np.log((rows / columns) / (height / width))) < 0.3


def test_the_request_contains_the_sampling_settings(serve, make):
    stub = serve()
    reasoner = make(stub, body={"top_p": 0.9, "seed": None}, length_field="max_completion_tokens")
    reasoner.client.url.endswith("/chat/completions")
    stub.behave = lambda handler, request: reply(handler, {"choices": [choice("x")]})
    reasoner.generate([conversation()], Sampling(temperature=0.5, max_completion_length=77))
    sent = {key: value for key, value in stub.received[0].items() if key not in ("messages", "path", "key")}
    assert sent == {"model": "stub", "temperature": 0.5, "max_completion_tokens": 77, "top_p": 0.9}


def test_a_group_is_one_request(serve, make):
    stub = serve()
    groups = make(stub).generate([conversation("a"), conversation("b")], Sampling(num_generations=4))
    assert sorted(request["n"] for request in stub.received) == [4, 4]
    assert all(len({completion.text for completion in group}) == 4 for group in groups)


def ignoring_n(handler, request):
    answer(handler, {**request, "n": 1})


def refusing_n(handler, request):
    if request.get("n", 1) > 1:
        reply(handler, {"error": {"message": "n must be 1"}}, 400)
    else:
        answer(handler, request)


@pytest.mark.parametrize("behave", [ignoring_n, refusing_n])
def test_a_server_without_n_gets_single_requests_with_the_same_answers(serve, make, behave):
    sampling = Sampling(num_generations=3, seed=5)
    batch = [conversation("a"), conversation("b")]
    want = [[c.text for c in group] for group in make(serve()).generate(batch, sampling)]
    stub = serve(behave)
    reasoner = make(stub, concurrency=1)
    assert [[c.text for c in group] for group in reasoner.generate(batch, sampling)] == want
    stub.received.clear()
    assert [[c.text for c in group] for group in reasoner.generate(batch, sampling)] == want
    assert [request.get("n") for request in stub.received] == [None] * 6, "it was learnt"


@pytest.mark.parametrize("indices", [(0, 0), (1, 1), (0, 2), (0, True), (0, "1"), (-1, 0)])
def test_a_group_with_misnumbered_choices_is_a_fault(serve, make, indices):
    choices = [choice("a", index) for index in indices]
    stub = serve(lambda handler, request: reply(handler, {"choices": choices}))
    (group,) = make(stub, retries=0).generate([conversation()], Sampling(num_generations=2))
    assert [completion.fault for completion in group] == [Fault.TRANSPORT] * 2


def test_n_can_be_left_out(serve, make):
    stub = serve()
    make(stub, body={"n": None}).generate([conversation()], Sampling(num_generations=3))
    assert len(stub.received) == 3 and not any("n" in request for request in stub.received)


def test_a_bad_request_that_is_not_about_n_is_a_fault_of_every_completion(serve, make):
    stub = serve(lambda handler, request: reply(handler, {"error": {"message": "context too long"}}, 400))
    reasoner = make(stub)
    (group,) = reasoner.generate([conversation()], Sampling(num_generations=2))
    assert [completion.fault for completion in group] == [Fault.TRANSPORT] * 2
    assert all("context too long" in completion.cause for completion in group)
    assert [request.get("n") for request in stub.received] == [2, None, None]
    stub.behave = answer
    reasoner.generate([conversation()], Sampling(num_generations=2))
    assert stub.received[-1]["n"] == 2, "the number was not to blame, so the next group is one request again"


def test_an_interruption_does_not_wait_for_open_requests():
    hung, started = threading.Event(), []

    def work(job):
        started.append(job)
        if job == 0:
            hung.wait(60)
        if job == 1:
            raise KeyboardInterrupt
        return job

    with pytest.raises(KeyboardInterrupt):
        run_parallel(work, range(100), 2)
    assert not hung.is_set() and set(started) <= {0, 1}
    hung.set()


def test_results_are_in_the_order_of_the_jobs():
    gate = threading.Event()

    def work(job):
        if job == 0:
            gate.wait(60)
        if job == 3:
            gate.set()
        return job

    assert run_parallel(work, range(4), 2) == [0, 1, 2, 3]
    assert run_parallel(work, [], 2) == []


def test_tokens_and_cost_are_counted_once_per_request(serve, make):
    reasoner = make(serve(), price_prompt=2.5, price_completion=10)
    (group,) = reasoner.generate([conversation()], Sampling(num_generations=3))
    assert group[0].usage == {"prompt_tokens": 100, "completion_tokens": 21, "cost": pytest.approx(0.00046)}
    assert [dict(completion.usage) for completion in group[1:]] == [{}, {}]
    (group,) = make(serve(), price_prompt=2.5).generate([conversation()], Sampling())
    assert group[0].usage == {"prompt_tokens": 100, "completion_tokens": 7}, "no price is invented"


@pytest.mark.parametrize(
    "host", ["api.example.com", "10.0.0.7", "127.0.0.1.example.com", "localhost.example.com", "[2001:db8::1]"]
)
def test_a_remote_server_needs_consent(host):
    with pytest.raises(RecipeError, match="not this machine") as caught:
        OpenAIReasoner(base_url=f"https://{host}/v1", model="m")
    assert "allow_upload" in str(caught.value)


def test_the_environment_consents_to_the_hosts_it_names(monkeypatch):
    monkeypatch.setenv("MEDGROUND_ALLOW_UPLOAD", "other, API.example.com")
    OpenAIReasoner(base_url="https://api.example.com:8443/v1", model="m")
    for host in ("example.com", "api.example.com.evil", "xapi.example.com"):
        with pytest.raises(RecipeError, match="not this machine"):
            OpenAIReasoner(base_url=f"https://{host}/v1", model="m")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_a_loopback_server_needs_no_consent(host, caplog):
    OpenAIReasoner(base_url=f"http://{host}:8000/v1", model="m")
    assert not caplog.records


def test_with_consent_one_message_says_what_is_sent_where(caplog, monkeypatch):
    monkeypatch.setattr(module, "_announced", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            OpenAIReasoner(base_url="http://gpu7.example.com:8000/v1", model="m", allow_upload=True)
    (record,) = caplog.records
    sentence = record.getMessage()
    for word in (
        "pixels",
        "PNG",
        "1008 px",
        "question",
        "http://gpu7.example.com:8000/v1",
        "unencrypted",
        "file names",
    ):
        assert word in sentence


def test_importing_the_reasoner_loads_no_heavy_library(tmp_path):
    code = (
        "import socket, sys, medground_openai.reasoner;"
        "print(sorted({'torch', 'transformers', 'requests', 'httpx', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr
