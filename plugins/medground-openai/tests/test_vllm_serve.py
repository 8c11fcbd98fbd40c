"""The reasoner with a real ``vllm serve`` process on loopback and a tiny Qwen2.5-VL."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from medground_openai.reasoner import OpenAIReasoner

from medground.errors import RunError
from medground.testing import check_reasoner
from medground.types import Fault, Sampling

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="needs vllm; `make test-vllm` makes an environment that has it"
    ),
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # vllm's own dependencies warn as they like
]
KEY = "canary-3f9c-do-not-show"
START_SECONDS = 600


def conversation(text="Where is the shadow?", size=(90, 120), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    return [{"role": "user", "content": [{"type": "image", "image": pixels}, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from medground_qwen import tiny

    folder = tmp_path_factory.mktemp("checkpoint")
    words = tiny.tokenizer()
    built = tiny.model("qwen2_5_vl", words, patch=14, hidden=64, layers=2)
    tiny.save(folder, built, tiny.processor("qwen2_5_vl", words, patch=14, max_side=336))
    return folder


@pytest.fixture(scope="module")
def served(checkpoint, tmp_path_factory):
    """Return (process, base_url) of a server that requires a key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The module behind `vllm serve`, because the command asks for the distribution "vllm", which the CPU build is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16", "--limit-mm-per-prompt"]
    command += ['{"image": 1}']
    env = {
        **os.environ,
        "VLLM_API_KEY": KEY,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(process, f"http://127.0.0.1:{port}/health", log)
        yield process, f"http://127.0.0.1:{port}/v1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(process, url, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"vllm ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)  # a server that starts can only be asked again
    pytest.fail(f"vllm did not start in {START_SECONDS} s:\n{log.read_text()[-3000:]}")


@pytest.fixture
def make(served, monkeypatch):
    monkeypatch.setenv("MEDGROUND_VLLM_KEY", KEY)
    given = {
        "base_url": served[1],
        "model": "tiny",
        "frame": "pixel",
        "api_key_env": "MEDGROUND_VLLM_KEY",
        "retries": 0,
    }
    return lambda **more: OpenAIReasoner(**{**given, **more})


GREEDY = Sampling(temperature=0.0, max_completion_length=24)
SAMPLED = Sampling(num_generations=4, temperature=1.0, max_completion_length=24, seed=3)


def texts(groups):
    return [[completion.text for completion in group] for group in groups]


def test_the_reasoner_passes_the_conformance_kit(make, served):
    make()  # the key is set
    check_reasoner(
        OpenAIReasoner,
        base_url=served[1],
        model="tiny",
        frame="pixel",
        api_key_env="MEDGROUND_VLLM_KEY",
        max_image_side=112,
    )


def test_a_greedy_answer_equals_that_of_transformers(make, checkpoint):
    """Equal greedy texts mean that image, size, prompt and frame are equal."""
    from medground_qwen import factories

    sizes = [(90, 120), (300, 200), (64, 48)]
    batch = [conversation(f"shadow {index}", size, index) for index, size in enumerate(sizes)]
    ours, there = factories.qwen2_5_vl(checkpoint=str(checkpoint), dtype="float32", device="cpu"), make()
    result, expected = there.generate(batch, GREEDY), ours.generate(batch, GREEDY)
    assert [whole(text) for (text,) in texts(result)] == [whole(text) for (text,) in texts(expected)]
    assert any(whole(text) for (text,) in texts(result))
    assert [group[0].frame for group in result] == [group[0].frame for group in expected]


def whole(text):
    """Remove the marks of incomplete characters, which vLLM leaves out at the end of a text."""
    return text.replace("\ufffd", "")


def test_a_group_in_one_request_equals_single_requests(make):
    batch = [conversation(f"shadow {index}", seed=index) for index in range(3)]
    together, single = make(), make(body={"n": None})
    group = together.generate(batch, SAMPLED)
    assert texts(group) == texts(single.generate(batch, SAMPLED))
    assert len(set(texts(group)[0])) > 1
    first, *others = group[0]
    assert first.usage["prompt_tokens"] > 12 and first.usage["completion_tokens"] <= 4 * 24
    assert not any(completion.usage for completion in others)
    assert all(completion.fault is None for completions in group for completion in completions)
    assert {completion.finish_reason for completions in group for completion in completions} <= {"stop", "length"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other"}, "404"),
        ({"api_key_env": None}, "does not accept the key"),
        ({"length_field": "max_tokens", "body": {"max_tokens": 100_000}}, "400"),
    ],
)
def test_a_refused_request_is_not_a_fault_of_the_model(make, change, words):
    (completion,) = make(**change).generate([conversation()], GREEDY)[0]
    assert completion.fault is Fault.TRANSPORT and words in completion.cause
    assert KEY not in completion.cause and completion.text == ""


def test_a_model_of_random_weights_gives_no_frame(make):
    """The weights are random, so the measurement is unclear and refused."""
    with pytest.raises(RunError, match="is not clear"):
        make(frame=None, max_image_side=112, body={"max_tokens": 24}).frame((90, 120))


def test_a_killed_server_is_a_transport_fault(make, served):
    """This test runs last, because it kills the server."""
    reasoner = make()
    os.killpg(served[0].pid, signal.SIGKILL)
    served[0].wait()
    groups = reasoner.generate([conversation(), conversation("again")], SAMPLED)
    assert {completion.fault for group in groups for completion in group} == {Fault.TRANSPORT}
