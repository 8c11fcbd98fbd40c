"""What is sent, what is drawn, what is counted, and which frame is found."""

import base64
import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from medground_openai import reasoner as module
from medground_openai.abreast import each
from medground_openai.reasoner import OpenAIReasoner
from PIL import Image as Pillow
from PIL import PngImagePlugin

import medground as library
from medground.cli import main
from medground.errors import MedgroundError, RecipeError, RunError
from medground.frames import Frame
from medground.testing import check_reasoner
from medground.types import Fault, Sampling, image_of

_spec = importlib.util.spec_from_file_location("openai_conftest", Path(__file__).with_name("conftest.py"))
common = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(common)
KEY, answer, choice, conversation, image, question, reply = (
    getattr(common, name) for name in ("KEY", "answer", "choice", "conversation", "image", "question", "reply")
)


def decoded(request):
    head, _, data = image(request).partition(",")
    return head, Pillow.open(io.BytesIO(base64.b64decode(data)))


def test_it_keeps_the_contract(serve):
    check_reasoner(OpenAIReasoner, base_url=serve().url, model="stub", frame="permille", retries=0)


@pytest.mark.parametrize(("encoding", "head"), [("png", "data:image/png;base64"), ("jpeg", "data:image/jpeg;base64")])
def test_the_image_is_sent_at_the_size_its_frame_says(serve, make, encoding, head):
    stub = serve()
    reasoner = make(stub, image_format=encoding, max_image_side=200, side_multiple=28, frame="pixel")
    asked = conversation(size=(300, 400))
    (completion,) = reasoner.generate([asked], Sampling())[0]
    found, picture = decoded(stub.received[0])
    assert found == head
    assert completion.frame == Frame("pixel", (140, 196)) == reasoner.frame((300, 400))
    assert picture.size == (196, 140)
    content = stub.received[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]


def test_a_png_that_needs_no_resizing_is_sent_to_the_digit(serve, make):
    stub = serve()
    asked = conversation(size=(56, 64))
    make(stub).generate([asked], Sampling())
    _, picture = decoded(stub.received[0])
    assert np.array_equal(np.asarray(picture), image_of(asked))
    assert picture.info == {}, "chunks beside the pixels"


@given(
    st.integers(8, 3000), st.integers(8, 3000), st.sampled_from([64, 700, 1008, 2048]), st.sampled_from([14, 28, 32])
)
def test_sizes_sent_fit_the_grid_and_the_limit(height, width, side, multiple):
    if max(height, width) > 100 * min(height, width):
        return
    made = OpenAIReasoner(model="m", frame="pixel", max_image_side=side, side_multiple=multiple)
    rows, columns = made.seen((height, width))
    assert rows % multiple == columns % multiple == 0
    assert made.seen((rows, columns)) == (rows, columns) or max(rows, columns) > side
    if min(height, width) * side > 4 * multiple * max(height, width) and min(height, width) >= 4 * multiple:
        assert max(rows, columns) <= side + multiple / 2
        assert abs(np.log((rows / columns) / (height / width))) < 0.3


def test_the_request_says_what_the_sampling_says(serve, make):
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
def test_a_server_without_n_is_asked_one_by_one_and_says_the_same(serve, make, behave):
    sampling = Sampling(num_generations=3, seed=5)
    batch = [conversation("a"), conversation("b")]
    want = [[c.text for c in group] for group in make(serve()).generate(batch, sampling)]
    stub = serve(behave)
    reasoner = make(stub, concurrency=1)
    assert [[c.text for c in group] for group in reasoner.generate(batch, sampling)] == want
    stub.received.clear()
    assert [[c.text for c in group] for group in reasoner.generate(batch, sampling)] == want
    assert [request.get("n") for request in stub.received] == [None] * 6, "it was learnt"


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


def test_an_interruption_waits_for_nobody():
    hung, started = threading.Event(), []

    def work(job):
        started.append(job)
        if job == 0:
            hung.wait(60)
        if job == 1:
            raise KeyboardInterrupt
        return job

    with pytest.raises(KeyboardInterrupt):
        each(work, range(100), 2)
    assert not hung.is_set() and set(started) <= {0, 1}
    hung.set()


def test_results_stand_in_the_order_of_the_jobs():
    gate = threading.Event()

    def work(job):
        if job == 0:
            gate.wait(60)
        if job == 3:
            gate.set()
        return job

    assert each(work, range(4), 2) == [0, 1, 2, 3]
    assert each(work, [], 2) == []


def test_tokens_and_cost_are_counted_once_per_request(serve, make):
    reasoner = make(serve(), price_prompt=2.5, price_completion=10)
    (group,) = reasoner.generate([conversation()], Sampling(num_generations=3))
    assert group[0].usage == {"prompt_tokens": 100, "completion_tokens": 21, "cost": pytest.approx(0.00046)}
    assert [dict(completion.usage) for completion in group[1:]] == [{}, {}]
    (group,) = make(serve(), price_prompt=2.5).generate([conversation()], Sampling())
    assert group[0].usage == {"prompt_tokens": 100, "completion_tokens": 7}, "no price is invented"


# Where it may go, and what goes there.


@pytest.mark.parametrize(
    "host", ["api.example.com", "10.0.0.7", "127.0.0.1.example.com", "localhost.example.com", "[2001:db8::1]"]
)
def test_another_machine_needs_consent(host):
    with pytest.raises(RecipeError, match="not this machine") as caught:
        OpenAIReasoner(base_url=f"https://{host}/v1", model="m")
    assert "allow_upload" in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_this_machine_needs_none(host, caplog):
    OpenAIReasoner(base_url=f"http://{host}:8000/v1", model="m")
    assert not caplog.records


def test_with_consent_it_is_told_once_what_goes_where(caplog, monkeypatch):
    monkeypatch.setattr(module, "_told", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            OpenAIReasoner(base_url="http://gpu7.example.com:8000/v1", model="m", allow_upload=True)
    (record,) = caplog.records
    told = record.getMessage()
    for word in (
        "pixels",
        "PNG",
        "1008 px",
        "question",
        "http://gpu7.example.com:8000/v1",
        "unencrypted",
        "file names",
    ):
        assert word in told


def test_the_command_line_says_it_too(named, tmp_path):
    """An address nobody has, which the tests' block on sockets refuses at once."""
    given = ["base_url=http://192.0.2.1:9/v1", "model=m", "frame=unit", "retries=0", "allow_upload=true"]
    asked = ["ground", named, "Where?", "--recipe", "infer/openai", *[f"reasoner.{setting}" for setting in given]]
    done = medground(*asked, cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr.count("every image's pixels (PNG, at most 1008 px a side) and every question go to http://192.")
        == 1
    )
    assert "transport" in done.stderr and "Traceback" not in done.stderr


CANARY = "DOE^JANE-19700101"


@pytest.fixture
def named(tmp_path):
    """A picture whose name and metadata hold what must stay."""
    folder = tmp_path / f"{CANARY}-folder"
    folder.mkdir()
    picture = Pillow.fromarray(image_of(conversation(size=(90, 120))))
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", CANARY)
    text.add_itxt("XML:com.adobe.xmp", CANARY)
    exif = Pillow.Exif()
    exif[0x010E] = CANARY
    picture.save(folder / f"{CANARY}.png", pnginfo=text, exif=exif)
    return folder / f"{CANARY}.png"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def medground(*arguments, cwd):
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "medground", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "CANARY_KEY": KEY},
    )


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    """The same in this process, which is quicker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY_KEY", KEY)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Done(ended.value.code, said.out, said.err)

    return run


def recipe(stub, *more):
    given = {"base_url": stub.url, "model": "stub", "frame": "permille", "api_key_env": "CANARY_KEY", "retries": 0}
    return ["--recipe", "infer/openai", *[f"reasoner.{key}={value}" for key, value in given.items()], *more]


BOX = '<think>there</think><answer>{"bbox": [250, 250, 750, 750], "points_1": [400, 500], "points_2": [600, 500]}</answer>'


def grounded(handler, request):
    usage = {"prompt_tokens": 900, "completion_tokens": 40}
    reply(handler, {"choices": [choice(BOX)], "usage": usage})


def test_ground_through_the_command_line(serve, named, tmp_path):
    stub = serve(grounded)
    prices = ["reasoner.price_prompt=1", "reasoner.price_completion=10"]
    done = medground("ground", named, "What explains the shadow?", *recipe(stub), *prices, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["box"] == [30, 22.5, 90, 67.5]
    assert found["frame"]["kind"] == "permille"
    assert found["usage"] == {"prompt_tokens": 900, "completion_tokens": 40, "cost": pytest.approx(0.0013)}
    (raw,) = stub.raw
    _, picture = decoded(stub.received[0])
    sent = raw + base64.b64decode(image(stub.received[0]).partition(",")[2]) + repr(picture.info).encode()
    for letters in (CANARY, CANARY.lower(), "Patient", str(tmp_path)):
        assert letters.encode() not in sent
    assert dict(picture.getexif()) == {}
    assert "What explains the shadow?" in question(stub.received[0])


def files(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_run_counts_tokens_and_holds_no_key(serve, named, here, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.png").write_bytes(named.read_bytes())
    stub = serve(grounded)
    asked = ["run", tmp_path / "in", "--question", "Where?", "--out", tmp_path / "out", *recipe(stub)]
    done = here(*asked, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"] == {"prompt_tokens": 1800, "completion_tokens": 80}
    assert all(request["key"] == f"Bearer {KEY}" for request in stub.received)
    again = here(*asked)
    assert again.returncode == 0 and "1800 prompt_tokens" in again.stderr
    assert len(stub.received) == 2, "what is done stays done"
    written = files(tmp_path / "out") + (done.stdout + done.stderr + again.stderr).encode()
    assert b"CANARY_KEY" in written and KEY.encode() not in written


def failing(status):
    return lambda handler, request: reply(handler, {"error": {"message": "no such model"}}, status)


@pytest.mark.parametrize(
    ("status", "words"), [(401, "does not accept the key"), (404, "no such model"), (503, "answered 503")]
)
def test_a_failing_server_is_exit_1_and_a_sentence(serve, named, here, tmp_path, status, words):
    done = here("ground", named, "Where?", *recipe(serve(failing(status))))
    assert done.returncode == 1
    assert words in done.stderr and "transport" in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert KEY.encode() not in files(tmp_path / "grounded")


def test_no_traceback_shows_the_key(serve, named, tmp_path):
    done = medground("--debug", "ground", named, "Where?", *recipe(serve(failing(401))), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and KEY not in done.stderr


def test_a_run_with_failures_says_so_and_is_resumed(serve, named, here, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.png").write_bytes(named.read_bytes())
    stub = serve(lambda handler, request: reply(handler, b"", 500))
    asked = ["run", tmp_path / "in", "--question", "Where?", "--out", tmp_path / "out", *recipe(stub)]
    done = here(*asked)
    assert done.returncode == 1 and "2 of 2 inputs were not answered" in done.stderr and "500" in done.stderr
    stub.behave = grounded
    done = here(*asked)
    assert done.returncode == 0 and "2 of 2 grounded" in done.stderr


def test_an_evaluation_leaves_out_what_the_transport_lost_and_adds_up_the_rest(serve, here, tmp_path):
    from medground_toy import phantoms

    phantoms.write(tmp_path / "data", phantoms.samples(6, seed=3, size=(96, 96)))
    stub = serve()

    def every_third_is_lost(handler, request):
        if len(stub.received) % 3 == 0:
            reply(handler, b"", 503)
        else:
            grounded(handler, request)

    stub.behave = every_third_is_lost
    given = {"base_url": stub.url, "model": "m", "frame": "permille", "retries": 0, "concurrency": 1}
    found = library.evaluate(
        {
            "reasoner": {"name": "openai", **given},
            "prompt_interface": "bbox_points",
            "segmenter": "ellipse",
            "data": {"path": str(tmp_path / "data")},
            "evaluate": {"n_boot": 20},
        },
        out=tmp_path / "eval",
    )
    arm = found.metrics["arms"]["answer"]
    lost = arm["answers"] // 3
    assert len(stub.received) == arm["answers"] == 6 and arm["excluded"] == {"transport": lost} and not arm["failures"]
    assert arm["metrics"]["iou"]["n"] == arm["answers"] - lost
    assert arm["usage"] == {"prompt_tokens": 900 * arm["ok"], "completion_tokens": 40 * arm["ok"]}
    causes = [answer["cause"] for line in found.lines for answer in line["answers"] if answer["fault"]]
    assert causes == ["the server answered 503"] * lost


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("reasoner.base_url=https://api.example.com/v1", "allow_upload"),
        ("reasoner.api_key_env=NOT_SET_HERE", "NOT_SET_HERE is not set"),
        ("reasoner.frame=permil", "permille"),
        ("reasoner.image_format=gif", "image_format"),
        ("reasoner.concurrency=0", "concurrency"),
        ("reasoner.retries=-1", "retries"),
    ],
)
def test_a_wrong_setting_is_a_usage_error(serve, named, here, override, words):
    stub = serve()
    done = here("ground", named, "Where?", *recipe(stub), override)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not stub.received


# Which frame it answers in.


def seeing(frame_of, noise=0.0, wrap="{}"):
    """A server that finds the red rectangle and answers in a frame of its own."""
    draw = np.random.default_rng(0)

    def behave(handler, request):
        pixels = np.asarray(decoded(request)[1]).astype(int)
        rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1] > 100)
        size = pixels.shape[:2]
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        frame = frame_of(size)
        shaken = np.array(box) + noise * draw.normal(size=4) * np.tile(size[::-1], 2)
        numbers = frame.from_pixels(shaken, size)
        said = [round(float(n), 3 if frame.kind == "unit" else 0) for n in numbers]
        reply(handler, {"choices": [choice(wrap.format(json.dumps({"bbox": said})))]})

    return behave


@pytest.mark.parametrize("order", ["xy", "yx"])
@pytest.mark.parametrize("kind", ["pixel", "permille", "unit"])
@pytest.mark.parametrize("side", [336, 1008, 1344])
def test_the_frame_is_found_out(serve, make, kind, order, side, caplog):
    stub = serve(seeing(lambda size: Frame(kind, size, order), noise=0.004))
    reasoner = make(stub, frame=None, max_image_side=side, side_multiple=28)
    with caplog.at_level(logging.WARNING):
        assert reasoner.frame((300, 400)) == Frame(kind, reasoner.seen((300, 400)), order)
    assert f"reasoner.frame={kind} reasoner.order={order}" in caplog.text
    reasoner.frame((50, 70))
    assert len(stub.received) == 8, "asked once"


@pytest.mark.parametrize("wrap", ["<think>perhaps [1, 2, 3, 4]?</think>{}", "```json\n{}\n```", "[0, 0] or so {} [5]"])
def test_answers_may_be_wrapped(serve, make, wrap):
    stub = serve(seeing(lambda size: Frame("permille", size), wrap=wrap.replace("{}", "%s").replace("%s", "{}")))
    assert make(stub, frame=None).frame((80, 80)).kind == "permille"


def shrinking(size):
    scale = min(1.0, 512 / max(size))
    return Frame("pixel", (round(size[0] * scale), round(size[1] * scale)))


def test_a_server_that_resizes_is_found_out_and_its_size_named(serve, make):
    reasoner = make(serve(seeing(shrinking)), frame=None, max_image_side=1008, side_multiple=28)
    with pytest.raises(RunError, match="1008x756 seem to be 512x384") as caught:
        reasoner.generate([conversation()], Sampling())
    assert "max_image_side" in caught.value.hint
    assert make(serve(seeing(shrinking)), frame=None, max_image_side=504).frame((80, 80)).kind == "pixel"


def test_a_fixed_square_is_found_out_too(serve, make):
    reasoner = make(serve(seeing(lambda size: Frame("pixel", (448, 448)))), frame=None)
    with pytest.raises(RunError, match="seem to be 448x448"):
        reasoner.frame((80, 80))


def blind(handler, request):
    numbers = np.random.default_rng(len(image(request))).integers(0, 1000, 4).tolist()
    reply(handler, {"choices": [choice(json.dumps({"bbox": numbers}))]})


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (blind, "elsewhere"),
        (lambda h, r: reply(h, {"choices": [choice("I see a rectangle.")]}), "too few"),
        (lambda h, r: reply(h, {"choices": [choice('{"bbox": [0, 0, 1000, 1000]}')]}), "elsewhere"),
        (lambda h, r: reply(h, {"choices": [choice('{"bbox": [-5, -5, -1, -1]}')]}), "elsewhere"),
        (lambda h, r: reply(h, {"choices": [choice("[" * 9000 + "1, " * 9000)]}), "too few"),
        (lambda h, r: reply(h, b"", 401), "does not accept the key"),
        (seeing(lambda size: Frame("permille", size), noise=0.15), "elsewhere"),
    ],
    ids=["blind", "talks", "the whole image", "negative", "brackets", "401", "shaky"],
)
def test_nothing_is_guessed(serve, make, behave, words):
    stub = serve(behave)
    with pytest.raises(MedgroundError, match="could not be found out") as caught:
        make(stub, frame=None).generate([conversation()], Sampling())
    assert words in caught.value.message and "reasoner.frame" in caught.value.hint
    assert len(stub.received) == 8, "the patient's image was not sent"


def test_doctor_frames_finds_out_and_says(serve, tmp_path):
    stub = serve(seeing(lambda size: Frame("permille", size, "yx")))
    given = ["infer/openai", f"reasoner.base_url={stub.url}", "reasoner.model=m", "--json"]
    done = medground("doctor", "frames", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frame"]["kind"] == "permille"
    assert json.loads(done.stdout)["frame"]["order"] == "yx"
    assert "reasoner.frame=permille reasoner.order=yx" in done.stderr
    stub.behave = blind
    done = medground("doctor", "frames", *given, cwd=tmp_path)
    assert done.returncode == 1 and "could not be found out" in done.stderr


def test_the_plugin_is_registered_without_the_network(tmp_path):
    code = (
        "import socket, sys, medground_openai.reasoner;"
        "print(sorted({'torch', 'transformers', 'requests', 'httpx', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr
