"""A recipe as a task of verifiers and of the lm-evaluation-harness, with the real packages: `make test-bridges`."""

import asyncio
import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from bridge_cases import RECIPE, half, samples
from PIL import Image as Pillow

from medground.bridges.scored import ScoredQuestions
from medground.errors import RunError

MODULE = """
from bridge_cases import RECIPE, samples
from medground.bridges.verifiers import taskset

__all__ = ["Grounding"]
Grounding = taskset(RECIPE, data=samples())
"""
"""A taskset's package."""


def real(package):
    return pytest.importorskip(package, reason=f"needs {package}: make test-bridges")


def test_questions_are_the_recipes_prompts_and_scores_its_rewards():
    questions = ScoredQuestions(RECIPE, data=samples())
    (message,) = questions.messages(1)
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert "Where is 20?" in message["content"][1]["text"]
    score = questions.score(1, half(1))
    assert score.total == 0.5 * 1.0 + 0.5
    assert {label: term.value for label, term in score.terms.items()} == {
        "format_seg": 1.0,
        "bbox_iou": 0.5,
        "mask_dice": None,  # the target has no mask
    }
    assert questions.score(2, questions.ideal(2)).total == 1.5


def test_an_answer_that_no_term_can_score_is_an_error():
    questions = ScoredQuestions({**RECIPE, "rewards": {"mask_dice": 1.0}}, data=samples())
    with pytest.raises(RunError, match="the answer about 'scan-10' has no score: term 'mask_dice' abstained"):
        questions.score(0, half(0))


def test_lm_eval_evaluates_a_recipe():
    lm_eval = real("lm_eval")
    from lm_eval.api.model import LM

    from medground.bridges.lm_eval import GroundingTask

    class Model(LM):
        MULTIMODAL = True

        def generate_until(self, requests, disable_tqdm=False):
            for request in requests:
                text, settings, seen = request.args
                (image,) = seen["visual"]
                assert text.startswith("<image>\n") and f"Where is {image.getpixel((0, 0))[0]}?" in text
                assert settings["max_gen_toks"] == 99
            return [half(request.doc["index"]) if request.doc["index"] else "no answer" for request in requests]

        def loglikelihood(self, requests, disable_tqdm=False):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    task = GroundingTask(RECIPE, "sampling.max_completion_length=99", data=samples())
    results = lm_eval.simple_evaluate(Model(), tasks=[task], bootstrap_iters=0)
    (metrics,) = results["results"].values()
    assert metrics["reward,none"] == pytest.approx((0.0 + 1.0 + 1.0) / 3)
    assert metrics["bbox_iou,none"] == pytest.approx((0.0 + 0.5 + 0.5) / 3)
    assert metrics["format_seg,none"] == pytest.approx(2 / 3)


def test_verifiers_loads_a_recipes_taskset_by_the_name_of_a_module(tmp_path, monkeypatch):
    vf = real("verifiers.v1")

    (tmp_path / "grounding_env.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    tasks = list(vf.load_taskset(vf.TasksetConfig(id="grounding-env")))
    assert [task.data.idx for task in tasks] == [0, 1, 2]
    image, text = tasks[1].data.prompt[0].content
    assert "Where is 20?" in text.text
    pixels = Pillow.open(io.BytesIO(base64.b64decode(image.image_url.url.partition(",")[2])))
    assert np.asarray(pixels).tolist() == samples()[1].query.image.tolist()


class Server(BaseHTTPRequestHandler):
    """A chat server: it marks the upper half of what the question is about, and knows nothing of scan 30."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = request["messages"][-1]["content"][-1]["text"]
        index = next(index for index in range(3) if f"Where is {10 * (index + 1)}?" in question)
        message = {"role": "assistant", "content": half(index) if index < 2 else "I cannot tell."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_an_environment_of_verifiers_rewards_what_a_server_answers(tmp_path, monkeypatch):
    vf = real("verifiers.v1")

    (tmp_path / "rewarded_env.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    agent = {"harness": {"id": "one-request"}, "runtime": {"type": "subprocess"}}
    env = vf.load_environment(
        vf.resolve_env_config({"taskset": {"id": "rewarded-env"}, "agent": agent, "interception": {"type": "server"}})
    )

    async def episodes(url):
        client = vf.EvalClientConfig(base_url=url, api_key_var="MEDGROUND_TEST_KEY")
        context = vf.ModelContext(model="m", client=client)
        async with env.serving():
            return [await env.run_slot(slot, context) for task in env.taskset for slot in env.slots(task)]

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MEDGROUND_TEST_KEY", "none")
        done = asyncio.run(episodes(f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert [episode.ok for episode in done] == [True, True, True], [trace.errors for e in done for trace in e.traces]
    traces = [episode.traces[0] for episode in done]
    assert [trace.reward for trace in traces] == [1.0, 1.0, 0.0]
    assert traces[0].rewards["format_seg"] == vf.Reward(score=1.0, weight=0.5)
    assert traces[0].rewards["bbox_iou"] == vf.Reward(score=0.5, weight=1.0)
    assert set(traces[0].rewards) == {"format_seg", "bbox_iou"}
