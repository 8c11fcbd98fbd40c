"""`medground data build --questions reasoner --reasoner openai` end to end, with a real server on loopback."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from medground_data.build import Options, build
from medground_data.llm_questions import numbered
from medground_data.question_sources import by_image
from medground_data.readers import read_source
from medground_toy import phantoms
from openai_servers import KEY, choice, decoded, question, reply

from medground.cli import main

COUNT = 10
GOOD = {"question": "What here would change how the patient is treated?", "think": "It differs from what surrounds it."}


@dataclass
class Done:
    returncode: int
    stderr: str


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Write pictures of a size that is sent without resizing."""
    folder = tmp_path_factory.mktemp("source")
    phantoms.write(folder, phantoms.samples(COUNT, seed=3, size=(112, 112), families=("ct", "xray")))
    return folder


@pytest.fixture(scope="module")
def numbers(source, tmp_path_factory):
    """Return the target's number in each picture of numbered boxes, keyed by the picture's pixels."""
    result = {}

    def look(rows, folder):
        for row in rows:
            picture, number = numbered(row, by_image(rows), folder)
            result[picture.tobytes()] = number
            row.line["question"] = "Which one?"
        return []

    build(read_source(source), tmp_path_factory.mktemp("numbers") / "out", Options(), look)
    assert len(result) == COUNT
    return result


@pytest.fixture
def writing(numbers):
    """Return a behaviour that describes, writes what `says` returns, and answers with the number of the target."""

    def behaviour(says=lambda prompts_asked: GOOD):
        def behave(handler, request):
            prompts_asked = question(request)
            if prompts_asked.startswith("The boxes"):
                text = str(numbers[np.asarray(decoded(request)[1]).tobytes()])
            elif "JSON only" in prompts_asked:
                text = f"```json\n{json.dumps(says(prompts_asked))}\n```"
            else:
                text = f"A dim area. {prompts_asked.partition('in yellow: ')[2].partition('.')[0]}"
            reply(handler, {"choices": [choice(text)]})

        return behave

    return behaviour


@pytest.fixture
def ask(source, monkeypatch, capsys, tmp_path):
    """``ask(url, *more)`` runs the command with a key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDGROUND_CANARY_KEY", KEY)

    def run(url, *more):
        given = {
            "base_url": url,
            "model": "stub",
            "frame": "pixel",
            "api_key_env": "MEDGROUND_CANARY_KEY",
            "retries": 0,
        }
        sets = [word for key, value in given.items() for word in ("--set", f"reasoner.{key}={value}")]
        command = ["data", "build", str(source), "--out", "made", "--questions", "reasoner", "--reasoner", "openai"]
        with pytest.raises(SystemExit) as ended:
            main([*command, *sets, *more])
        return Done(ended.value.code or 0, capsys.readouterr().err)

    return run


def rows():
    return [json.loads(line) for line in Path("made/manifest.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_questions_are_written_and_only_pixels_and_text_are_sent(serve, writing, ask, source):
    stub = serve(writing())
    done = ask(stub.url, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"openai would be asked: {3 * COUNT} requests with {3 * COUNT} images" in done.stderr
    assert len(stub.received) == 3 * COUNT
    assert {(row["question"], row["think"], row["asked_by"]) for row in rows()} == {(*GOOD.values(), "reasoner")}
    sent = b"".join(stub.raw)
    for row in rows():
        assert row["id"].encode() not in sent and Path(row["image"]).name.encode() not in sent
    assert source.name.encode() not in sent
    written = b"".join(path.read_bytes() for path in Path("made").rglob("*") if path.is_file())
    assert KEY.encode() in sent and KEY.encode() not in written + done.stderr.encode()


@pytest.mark.slow
def test_the_cost_is_shown_before_the_first_request(serve, writing, ask):
    stub = serve(writing())
    done = ask(stub.url)
    assert done.returncode == 2
    assert f"{3 * COUNT} requests" in done.stderr and "pass --yes" in done.stderr
    assert not stub.received and not Path("made").exists()


def test_a_remote_server_needs_consent(ask):
    done = ask("https://api.example.com/v1", "--yes")
    assert done.returncode == 2
    assert "api.example.com is not this machine" in done.stderr and "reasoner.allow_upload=true" in done.stderr
    assert "requests with" not in done.stderr and not Path("made").exists()


def test_with_consent_the_cost_and_the_address_are_shown(ask):
    done = ask("http://192.0.2.1:9/v1", "--set", "reasoner.allow_upload=true")
    assert done.returncode == 2 and "pass --yes" in done.stderr
    assert f"{3 * COUNT} requests" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", ["signal", "server"])
def test_saved_answers_are_not_requested_again(serve, writing, ask, how):
    works, stub = writing(), serve()

    def breaks(handler, request):
        if how == "signal" and len(stub.received) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        if how == "server" and len(stub.received) > 12:
            reply(handler, b"", 503)
        else:
            works(handler, request)

    stub.behave = breaks
    done = ask(stub.url, "--yes")
    assert done.returncode == (5 if how == "signal" else 1)
    assert "run the same command again" in done.stderr and not Path("made").exists()
    saved = len(Path("made.building/written.jsonl").read_text().splitlines())
    assert saved == (8 if how == "signal" else 12)
    stub.behave = works
    stub.received.clear()
    done = ask(stub.url, "--yes")
    assert done.returncode == 0, done.stderr
    assert len(stub.received) == 3 * COUNT - saved
    assert {row["asked_by"] for row in rows()} == {"reasoner"}


def test_a_question_that_names_its_target_is_asked_by_template_or_left_out(serve, writing, ask):
    leaks = {**GOOD, "question": "Where is the liver, kidney, lung, heart, clavicle, tumour, lesion or opacity?"}
    stub = serve(writing(lambda prompts_asked: leaks if "A dim area. kidney" in prompts_asked else GOOD))
    assert ask(stub.url, "--yes").returncode == 0
    by = {row["category"]: row["asked_by"] for row in rows()}
    assert {prompts_asked for category, prompts_asked in by.items() if category == "kidney"} == {"template"}
    assert {prompts_asked for category, prompts_asked in by.items() if category != "kidney"} == {"reasoner"}
