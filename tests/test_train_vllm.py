"""GRPO with rollouts of the real vLLM equals the same run with the trainer's own model: `make test-vllm`."""

import contextlib
import json
import math
import os
import re
import socket
import subprocess
import sys
import urllib.request

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.recipe import resolve  # noqa: E402
from medground.runs.folder import read_events  # noqa: E402
from medground.training.build import build  # noqa: E402
from medground.training.grpo.rollouts import OwnSampler  # noqa: E402
from medground.training.method import TrainingState  # noqa: E402
from medground.training.run import train  # noqa: E402

STEPS = 3


@pytest.fixture(scope="module", autouse=True)
def vllm():
    pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Qwen2.5-VL."""
    from medground_qwen import tiny

    folder = tmp_path_factory.mktemp("qwen2_5_vl")
    words = tiny.tokenizer()
    kit = tiny.processor("qwen2_5_vl", words, patch=8, max_side=64)
    tiny.save(folder, tiny.model("qwen2_5_vl", words, patch=8, hidden=64, layers=2), kit)
    return folder


@pytest.fixture
def recipe(trials, checkpoint):
    def make(rollout=None, reasoner=(), **settings):
        model = {"name": "qwen2_5_vl", "checkpoint": str(checkpoint), "dtype": "float32", "device": "cpu"}
        made = trials(reasoner={**model, **dict(reasoner)}, max_steps=STEPS, max_completion_length=12, **settings)
        if rollout is not None:
            made["rollout"] = rollout
        return made

    return make


class Recorder:
    """A rollout source that forwards every call and records the completions."""

    def __init__(self, source):
        self.source, self.kept = source, []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def generate(self, batch, sampling, seeds):
        found = self.source.generate(batch, sampling, seeds)
        self.kept.append(found)
        return found


class Replay(OwnSampler):
    """The trainer's own model, returning recorded completions with its own log-probabilities."""

    def __init__(self, kept, temperature):
        self.kept, self.temperature = iter(kept), temperature

    def generate(self, batch, sampling, seeds):
        out = []
        for messages, group in zip(batch, next(self.kept), strict=True):
            logp = self.reasoner.policy(self.reasoner.group(messages, group), self.temperature)[0].detach()
            out.append([
                self.reasoner.completion(
                    each.token_ids.tolist(), row[: len(each.token_ids)].tolist(), each.frame,
                    stopped=each.finish_reason == "stop",
                )
                for each, row in zip(group, logp, strict=True)
            ])  # fmt: skip
        return out


def stepped(made, source):
    """Return the metrics of three steps with completions from `source`, and the final weights."""
    source.begin(made.reasoner, made.engine)
    made.method.source = source
    made.method.rollouts.source = source
    state, found = TrainingState(), []
    for _ in range(STEPS):
        result = made.method.step(state, lambda: None)
        assert result.skipped is None
        found.append(result.metrics)
        state.step, state.drawn = state.step + 1, state.drawn + result.drawn
    return found, {name: each.detach().clone() for name, each in made.engine.masters.items()}


def distance(found, expected):
    """Return the norm of the difference of two sets of weights."""
    assert found.keys() == expected.keys()
    return math.sqrt(sum(float((found[name] - value).double().square().sum()) for name, value in expected.items()))


def test_three_steps_with_vllm_equal_those_with_the_trainers_model(recipe):
    """The same completions give the same losses, and the reported mismatch is within 1e-4."""
    settings = {"temperature": 0.9, "correction": "truncate", "loss": "dapo", "beta": 0.04}
    settings |= {"num_iterations": 2, "mini_batch_size": 1}  # four updates a step: at the first alone every loss is 0
    with_vllm = build(resolve(recipe({"name": "vllm", "enforce_eager": True, "max_model_len": 512}, **settings)))
    recorder = Recorder(with_vllm.method.source)
    recorder.begin = lambda reasoner, engine: None  # `build` did that
    theirs, their_weights = stepped(with_vllm, recorder)
    with_vllm.method.close()
    own = build(resolve(recipe(**settings)))
    start = {name: each.detach().clone() for name, each in own.engine.masters.items()}
    ours, our_weights = stepped(own, Replay(recorder.kept, 0.9))
    assert (
        len({json.dumps([each.token_ids.tolist() for each in group]) for step in recorder.kept for group in step}) > 3
    )
    for step, (their, our) in enumerate(zip(theirs, ours, strict=True), 1):
        print(f"step {step}: loss {their['loss']:.9f} with vllm, {our['loss']:.9f} with hf")
        assert their["loss"] == pytest.approx(our["loss"], abs=1e-6)
        assert their["reward"] == our["reward"]
        assert their["grad_norm"] == pytest.approx(our["grad_norm"], rel=1e-4)
        apart = {name: value for name, value in their.items() if name.startswith("sampling/")}
        assert apart, sorted(their)
        assert max(value for name, value in apart.items() if "difference" in name) <= 1e-4, apart
    assert min(abs(their["loss"]) for their in theirs[1:]) > 1e-3
    # AdamW makes rounding as large as its step where gradients cancel, so the bound is on the norm of all weights.
    apart, moved = distance(their_weights, our_weights), distance(start, our_weights)
    print(f"weights: {apart:.3g} apart, {moved:.3g} from where they were")
    assert moved > 0
    assert apart <= 1e-3 * moved


def test_rollout_vllm_trains_and_resumes_a_whole_run(recipe, tmp_path):
    """A whole run with LoRA: checkpoints, events, resume."""
    lora = recipe({"name": "vllm", "enforce_eager": True, "max_model_len": 512}, {"lora_rank": 2}, save_every=2)
    done = train(lora, out=tmp_path / "run")
    assert (done.steps, done.skipped) == (STEPS, 0)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["plugins"]["rollout.vllm"].startswith("medground")
    lines = [line for line in read_events(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.fixture
def server(checkpoint, tmp_path):
    """A ``vllm serve`` process of its own, as `medground_vllm.factories.vllm_server` wants it started."""
    port, log = free_port(), tmp_path / "server.log"
    # What ``vllm serve`` runs; the script itself fails with the CPU build, whose distribution has another name.
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(checkpoint),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
    ]
    command += ["--logprobs-mode", "processed_logprobs", "--enforce-eager", "--max-model-len", "512"]
    command += ["--max-num-seqs", "16", "--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def wait_until_up(url, process, log):
    """Repeat requests until the server answers."""
    while True:
        try:
            process.wait(0.5)
            break
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                return
    pytest.fail(re.sub(r"\(.*?pid=\d+\)", "", log.read_text())[-3000:])


def test_rollout_vllm_server_trains_with_weights_through_a_folder(recipe, server, tmp_path):
    """The log-probabilities of the server agree with those of the trainer after each update."""
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    rollout = {"name": "vllm_server", "base_url": server, "folder": str(exchange)}
    made = build(resolve(recipe(rollout, temperature=0.9)))
    try:
        recorder = Recorder(made.method.source)
        recorder.begin = lambda reasoner, engine: None
        theirs, _ = stepped(made, recorder)
    finally:
        made.method.close()
    for step, metrics in enumerate(theirs, 1):
        apart = {
            name: value for name, value in metrics.items() if name.startswith("sampling/") and "difference" in name
        }
        print(f"step {step}: {apart}")
        assert apart
        assert max(apart.values()) <= 1e-4
    assert not list(exchange.iterdir())
