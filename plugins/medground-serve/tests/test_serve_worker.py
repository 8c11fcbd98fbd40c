"""The worker without HTTP: models that cannot be loaded, answers that take too long, and what an answer computes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import replace
from multiprocessing.connection import Pipe

import numpy as np
import pytest
from medground_serve import child
from medground_serve.command import LOOPBACK
from medground_serve.settings import Refusal, Settings
from medground_serve.worker import Worker

from medground.images.pictures import png_bytes
from medground.recipe import resolve

SETTINGS = Settings(recipe="infer/toy", token="t", hosts=LOOPBACK)


@contextlib.contextmanager
def started(settings, failures=None):
    worker = Worker(settings, (failures if failures is not None else []).append)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


async def until(happened):
    """Return when something has happened."""
    async with asyncio.timeout(120):
        while not happened():
            await asyncio.sleep(0.01)


@pytest.fixture
def image(tmp_path):
    disc = np.hypot(*np.ogrid[-40:40, -50:50]) < 12
    path = tmp_path / "image"
    path.write_bytes(png_bytes(np.where(disc, 200, 40).astype(np.uint8)))
    return {"image": "a", "path": str(path), "plane": None, "slice": None, "window": None}


def test_a_worker_that_is_killed_while_it_loads_ends_the_server_with_a_sentence():
    async def run():
        failures = []
        with started(SETTINGS, failures) as worker:
            waiting = asyncio.create_task(worker.ask({"do": "chat"}))
            await until(lambda: worker.pending)
            os.kill(worker.process_id, signal.SIGKILL)
            with pytest.raises(Refusal) as refused:
                await waiting
            assert not worker.ready and refused.value.status == 503
        return failures

    (failure,) = asyncio.run(run())
    assert (
        str(failure).startswith("the worker ended by signal 9 before the models were loaded") and failure.exit_code == 1
    )


def test_whatever_is_raised_while_models_load_is_said(monkeypatch):
    ours, its = Pipe()
    start = {"recipe": "infer/toy", "overrides": [], "most_pixels": 1, "compare": ""}
    monkeypatch.setattr(sys, "argv", ["", json.dumps(start)])
    monkeypatch.setattr(child.WatchedPipeline, "from_recipe", lambda recipe: 1 / 0)
    child.main(os.dup(its.fileno()))
    message = json.loads(ours.recv_bytes())
    assert (message["kind"], message["exit_code"]) == ("failed", 1)
    assert message["error"] == "the models cannot be loaded: ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_an_answer_that_takes_too_long_costs_itself_alone_and_never_the_event_loop(image):
    """The worker stands still, and the job is larger than what a pipe holds."""

    async def run():
        with started(SETTINGS) as worker:
            await until(lambda: worker.ready)
            os.kill(worker.process_id, signal.SIGSTOP)
            worker.settings = replace(SETTINGS, answer_seconds=0.5)
            first = asyncio.create_task(worker.ask({"do": "chat", "turns": "x" * 10**7}))
            await asyncio.sleep(0)
            second = asyncio.create_task(worker.ask({"do": "open", **image}))
            await asyncio.sleep(0)  # the first has begun, under its limit
            worker.settings = SETTINGS
            with pytest.raises(Refusal) as refused:
                await first
            return refused.value.status, json.loads(await second), worker.restarts

    status, answer, restarts = asyncio.run(run())
    assert status == 504 and answer["size"] == [80, 100] and restarts == 1


@pytest.mark.slow
def test_requests_without_an_answer_when_the_server_stops_are_answered_503(image):
    async def run():
        with started(SETTINGS) as worker:
            tasks = [asyncio.create_task(worker.ask({"do": "open", **image})) for _ in range(3)]
            await until(lambda: worker.pending == 3)
            worker.close()
            answers = await asyncio.gather(*tasks, worker.ask({"do": "open", **image}), return_exceptions=True)
            return [(answer.status, answer.error) for answer in answers], worker.pending

    answers, pending = asyncio.run(run())
    assert answers == [(503, "the server is stopping")] * 4 and pending == 0


@pytest.mark.slow
def test_questions_about_two_images_in_turn_encode_each_once(image, tmp_path):
    pipeline = child.WatchedPipeline.from_recipe(resolve("infer/toy", "segmenter=mini_sam"))
    answerer = child.Answerer(pipeline, most_pixels=10**6)
    other = tmp_path / "other"
    other.write_bytes(png_bytes(np.full((64, 64), 9, np.uint8)))
    prompt = {"do": "segment", "points": [], "labels": [], "text": "", "masks": "none", "compare": False}
    for size in range(20, 26):
        answerer.answer({**prompt, **image, "box": [10, 10, 10 + size, 40]})
        answerer.answer({**prompt, **image, "path": str(other), "box": [10, 10, 10 + size, 40]})
    assert answerer.encodes == 2


@pytest.mark.slow
def test_a_cancelled_job_ends_between_two_layers_of_a_model():
    torch = pytest.importorskip("torch")
    passes = []

    class Deep:
        class pipeline:
            watch = None

        encodes = None

        def answer(self, job):
            layer = torch.nn.Linear(2, 2)
            for number in range(10**6):
                if number == 3:
                    ours.send_bytes(b'{"do": "cancel"}')
                layer(torch.zeros(1, 2))
                passes.append(number)

    ours, its = Pipe()
    sent = []
    child._answer(Deep(), its, {"job": 7}, lambda kind, number, **values: sent.append((kind, number)))
    assert sent == [("cancelled", 7)] and 3 <= len(passes) < 10**6
