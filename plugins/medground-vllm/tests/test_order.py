"""The calls to vLLM and their order, with a recording double in place of vLLM.

`test_vllm_real.py` tests the real one. Sleeping and NCCL, which need a GPU, are tested only here.
"""

import base64
import importlib.util
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Pillow

torch = pytest.importorskip("torch", reason="needs torch")

import vllm_doubles  # noqa: E402
from medground_vllm import api, factories, inprocess  # noqa: E402
from medground_vllm.rollout import VllmRollout, stale  # noqa: E402
from vllm_doubles import conversation  # noqa: E402

from medground import registry  # noqa: E402
from medground.errors import PluginError, RecipeError, RunError  # noqa: E402
from medground.types import Sampling  # noqa: E402

TWO = Sampling(num_generations=2, temperature=0.7, max_completion_length=3)


def weights():
    yield from (("model.a.weight", torch.ones(2, 3)), ("model.b.weight", torch.zeros(2)))


@pytest.fixture
def llm(monkeypatch):
    made = vllm_doubles.RecordingLLM()

    def start(serving, **arguments):
        made.calls.append(("start", arguments))
        return made

    monkeypatch.setattr(
        api, "require", lambda: SimpleNamespace(SamplingParams=lambda **words: SimpleNamespace(**words))
    )
    monkeypatch.setattr(api, "can_sleep", lambda: True)
    monkeypatch.setattr(api, "start", start)
    return made


def rollout(llm, *, rank=0, world_size=1, **reasoner):
    made = factories.vllm(max_model_len=64)
    made.begin(vllm_doubles.Reasoner(**reasoner), vllm_doubles.Engine(rank, world_size))
    llm.calls.clear()
    return made


@pytest.fixture
def server():
    made = vllm_doubles.RecordingServer()
    yield made
    made.close()


def test_the_order_around_an_update(llm):
    source = rollout(llm)
    for version in (0, 1):
        source.sync(weights(), version)
        source.generate([conversation()], TWO, [5])
        source.sleep()
    source.close()
    step = [
        ("reload_weights", ["a.weight", "b.weight"]),
        ("version", "0"),
        "reset_prefix_cache",
        "reset_mm_cache",
        "reset_encoder_cache",
        ("generate", 1, [5]),
        ("sleep", 2),
    ]
    again = [("wake_up", "weights"), step[0], ("version", "1"), ("wake_up", "kv_cache"), *step[2:]]
    assert llm.calls == [*step, *again, "shutdown"]


def test_streamed_tensors_arrive_complete(llm):
    """The engine gathers one tensor at a time and reuses its memory."""

    def passing():
        for name, tensor in weights():
            yield name, tensor
            tensor.fill_(float("nan"))

    source = rollout(llm)
    source.sync(passing(), 0)
    assert torch.equal(llm.weights["a.weight"], torch.ones(2, 3))
    assert torch.equal(llm.weights["b.weight"], torch.zeros(2))


def test_sleep_is_not_called_where_the_platform_cannot_sleep(llm, monkeypatch):
    monkeypatch.setattr(api, "can_sleep", lambda: False)
    source = rollout(llm)
    source.sync(weights(), 0)
    source.sleep()
    source.sync(weights(), 1)
    assert not [call for call in llm.calls if call[0] in ("sleep", "wake_up")]


def test_each_of_several_processes_has_its_own_vllm(llm, monkeypatch):
    """vLLM would destroy the process group of the trainer if it were shut down."""
    monkeypatch.setattr(api, "is_guest", lambda: True)
    source = factories.vllm()
    source.begin(vllm_doubles.Reasoner(), vllm_doubles.Engine(1, 2))
    assert llm.calls[0][1]["world_size"] == 2
    source.close()
    assert len(llm.calls) == 1


def test_one_request_per_question_seeded_and_without_image_tokens(llm):
    source = rollout(llm)
    source.sync(weights(), 0)
    found = source.generate([conversation("a"), conversation("b")], TWO, [5, 70])
    assert llm.calls[-1] == ("generate", 2, [5, 70])
    for params in llm.params:
        assert (params.n, params.temperature, params.max_tokens) == (2, 0.7, 3)
        assert (params.top_p, params.top_k, params.min_p, params.repetition_penalty) == (1.0, -1, 0.0, 1.0)
        assert (params.bad_words, params.stop_token_ids, params.ignore_eos) == (
            ["<|image_pad|>"],
            [vllm_doubles.END],
            True,
        )
    assert [[(each.text, each.finish_reason) for each in group] for group in found] == [
        [("3 4 9", "stop"), ("3 3 3", "length")]
    ] * 2
    assert found[0][0].logprobs.tolist() == [-0.5] * 3


def test_a_mismatch_with_the_trainer_ends_the_run(llm):
    source = rollout(llm)
    with pytest.raises(RunError, match="no weights to write with"):
        source.generate([conversation()], TWO, [0])
    source.sync(weights(), 3)
    llm.version = "2"
    with pytest.raises(RunError, match=r"wrote with the weights \['2'\], not with '3'"):
        source.generate([conversation()], TWO, [0])
    llm.version = "3"
    with pytest.raises(RunError, match="wrote 2 completions of 3"):
        source.generate([conversation()], Sampling(num_generations=3, max_completion_length=3), [0])
    llm.prompt = [1, 7, 7, 2]
    with pytest.raises(RunError, match="as 4 tokens that the trainer reads as other 5"):
        source.generate([conversation()], TWO, [0])
    llm.prompt, llm.written = vllm_doubles.PROMPT, ((3, 7), (3,))
    with pytest.raises(RunError, match=r"wrote <\|image_pad\|>"):
        source.generate([conversation()], TWO, [0])
    source.sleep()
    with pytest.raises(RunError, match="no weights to write with"):
        source.generate([conversation()], TWO, [0])


def test_a_completion_that_would_exceed_max_model_len_is_refused_before_sampling(llm):
    source = rollout(llm)
    source.sync(weights(), 0)
    with pytest.raises(RecipeError, match="can take 65 tokens") as said:
        source.generate([conversation()], Sampling(num_generations=2, max_completion_length=60), [0])
    assert "rollout.max_model_len=65" in said.value.hint


def test_a_reasoner_that_vllm_cannot_serve_is_refused(llm):
    with pytest.raises(RecipeError, match="cannot write in place of str"):
        factories.vllm().begin("nobody", vllm_doubles.Engine())


@pytest.mark.parametrize(("route", "vision", "wanted"), [
    ("reload", False, ("prefix", "mm", "encoder")),
    ("reload", True, ("prefix", "mm", "encoder")),
    ("transfer", False, ("prefix",)),
    ("transfer", True, ("prefix", "encoder")),
])  # fmt: skip
def test_caches_are_reset_by_rule(route, vision, wanted):
    calls = []
    sampler = SimpleNamespace(
        route=route, open=lambda *_: None, wake=lambda part: None, push=lambda stream, version: calls.append(len([*stream])),
        reset=calls.append,
    )  # fmt: skip
    source = VllmRollout(sampler)
    source.begin(vllm_doubles.Reasoner(vision_trains=vision), vllm_doubles.Engine())
    source.sync(weights(), 0)
    assert calls == [2, *wanted]
    assert stale(route, vision_trains=vision) == wanted


def test_a_server_takes_weights_from_a_folder(server, tmp_path):
    from safetensors.torch import load_file

    engine, source = vllm_doubles.Engine(), factories.vllm_server(base_url=server.url, folder=str(tmp_path))
    source.begin(vllm_doubles.Reasoner(), engine)
    for version in (0, 1):
        source.sync(weights(), version)
    where = str(tmp_path / "weights-1")
    assert server.calls[5:] == [
        ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": where}}),
        ("/update_weight_version", {"new_version": "1"}),
        ("/reset_prefix_cache", None),
        ("/reset_mm_cache", None),
        ("/reset_encoder_cache", None),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["weights-1"], "only the newest is kept"
    assert load_file(tmp_path / "weights-1" / "model-00001.safetensors").keys() == {"a.weight", "b.weight"}
    found = source.generate([conversation()], TWO, [5])
    assert [each.text for each in found[0]] == ["3 4 9", "3 3 3"]
    assert engine.met == 8, "no rank goes on before weights and caches are ready"
    source.close()
    assert not list(tmp_path.iterdir())


def test_a_server_receives_the_image_as_the_model_sees_it(server, tmp_path):
    source = factories.vllm_server(base_url=server.url, folder=str(tmp_path))
    source.begin(vllm_doubles.Reasoner(), vllm_doubles.Engine())
    source.sync(weights(), 0)
    source.generate([conversation("Which side?")], TWO, [5])
    (body,) = server.bodies
    assert (body["seed"], body["n"], body["return_token_ids"], body["logprobs"]) == (5, 2, True, True)
    assert (body["bad_words"], body["ignore_eos"], body["stop_token_ids"]) == (
        ["<|image_pad|>"],
        True,
        [vllm_doubles.END],
    )
    picture, words = body["messages"][0]["content"]
    assert words == {"type": "text", "text": "Which side?"}
    seen = Pillow.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    assert np.array_equal(np.asarray(seen), np.full((4, 4, 3), 9, np.uint8))


def test_other_ranks_gather_and_wait_but_do_not_send(server, tmp_path):
    engine = vllm_doubles.Engine(1, 2)
    source = factories.vllm_server(base_url=server.url, folder=str(tmp_path))
    source.begin(vllm_doubles.Reasoner(), engine)
    stream = weights()
    source.sync(stream, 0)
    assert next(stream, None) is None, "gathering is collective, so the stream is drawn to its end"
    assert (server.calls, list(tmp_path.iterdir()), engine.met) == ([], [], 4)


def test_a_failing_or_misconfigured_server_is_reported(server, tmp_path):
    source = factories.vllm_server(base_url=server.url, folder=str(tmp_path))
    source.begin(vllm_doubles.Reasoner(), vllm_doubles.Engine())
    server.fail["/collective_rpc"] = 404
    with pytest.raises(RunError, match="answers 404 to /collective_rpc") as said:
        source.sync(weights(), 0)
    assert "VLLM_SERVER_DEV_MODE=1" in said.value.hint
    server.mode = "raw_logprobs"
    with pytest.raises(RecipeError, match="leave the temperature out"):
        source.begin(vllm_doubles.Reasoner(), vllm_doubles.Engine())
    gone = factories.vllm_server(base_url="http://127.0.0.1:9", folder=str(tmp_path))
    with pytest.raises(RunError, match=r"fails at .*v1.models"):
        gone.begin(vllm_doubles.Reasoner(), vllm_doubles.Engine())


def test_images_are_not_sent_to_another_machine_without_consent(tmp_path):
    with pytest.raises(RecipeError, match="images and questions would be sent there") as said:
        factories.vllm_server(base_url="http://gpu.example.org:8000", folder=str(tmp_path))
    assert "allow_upload=true" in said.value.hint
    factories.vllm_server(base_url="http://gpu.example.org:8000", folder=str(tmp_path), allow_upload=True)
    with pytest.raises(RecipeError, match="through a folder"):
        factories.vllm_server()


@pytest.mark.parametrize("vision", [False, True])
def test_a_server_takes_weights_by_nccl(server, monkeypatch, vision):
    """Only the order of calls is tested: the transfer needs GPUs on both sides."""
    made = []

    class Sender:
        def __init__(self, source):
            self.source = source

        def send_weights(self):
            server.calls.append(("send", [name for name, _ in self.source.now], self.source.shapes))

        def shutdown(self):
            server.calls.append("shutdown")

    def stream(first):
        return SimpleNamespace(now=first, shapes=[tuple(tensor.shape) for _, tensor in first])

    def sender(url, address, port, *, workers, rank, source, timeout):
        made.append((url, workers, rank))
        return Sender(source)

    monkeypatch.setattr(api, "require", lambda: None)
    monkeypatch.setattr(api, "stream", stream)
    monkeypatch.setattr(api, "sender", sender)
    source = factories.vllm_server(base_url=server.url, transfer="nccl")
    source.begin(vllm_doubles.Reasoner(vision_trains=vision), vllm_doubles.Engine())
    for version in (0, 1):
        source.sync(weights(), version)
    source.close()
    resets = [("/reset_prefix_cache", None), *([("/reset_encoder_cache", None)] if vision else [])]
    sent = ("send", ["a.weight", "b.weight"], [(2, 3), (2,)])
    named = [("/update_weight_version", {"new_version": version}) for version in "01"]
    assert made == [(server.url, 2, 0)], "the group is formed once"
    assert server.calls == [sent, named[0], *resets, sent, named[1], *resets, "shutdown"]


def test_without_vllm_the_error_names_the_extra(monkeypatch):
    """Exit code 4, before any model is loaded."""
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed here")
    with pytest.raises(PluginError, match="needs the module 'vllm'") as said:
        registry.build("rollout", "vllm")
    assert said.value.exit_code == 4
    assert "medground[vllm]" in said.value.hint


def test_an_unsupported_version_of_vllm_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", SimpleNamespace(__version__="0.40.1+cpu"))
    with pytest.raises(PluginError, match=r"vLLM 0\.40\.1\+cpu is not one"):
        inprocess.InProcess(max_model_len=8, sleep=False)
