"""`ground`, `run`, `eval` and `doctor` with a server: exit codes, requests and written files."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from openai_servers import KEY, blind, choice, conversation, decoded, image, question, reply, seeing
from PIL import Image as Pillow
from PIL import PngImagePlugin

import medground as library
from medground.cli import main
from medground.frames import Frame
from medground.types import image_of

CANARY = "DOE^JANE-19700101"


@pytest.fixture
def named(tmp_path):
    """Save a picture whose name and metadata contain the word that must not be sent."""
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
    """Run the command line in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "medground", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "MEDGROUND_CANARY_KEY": KEY},
    )


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    """Run the command line in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDGROUND_CANARY_KEY", KEY)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        stated = capsys.readouterr()
        return Done(ended.value.code, stated.out, stated.err)

    return run


def recipe(stub, *more):
    given = {
        "base_url": stub.url,
        "model": "stub",
        "frame": "permille",
        "api_key_env": "MEDGROUND_CANARY_KEY",
        "retries": 0,
    }
    return ["--recipe", "infer/openai", *[f"reasoner.{key}={value}" for key, value in given.items()], *more]


BOX = '<think>there</think><answer>{"bbox": [250, 250, 750, 750], "points_1": [400, 500], "points_2": [600, 500]}</answer>'


def grounded(handler, request):
    usage = {"prompt_tokens": 900, "completion_tokens": 40}
    reply(handler, {"choices": [choice(BOX)], "usage": usage})


@pytest.mark.slow
def test_ground_sends_pixels_and_question_only_and_counts_the_cost(serve, named, tmp_path):
    stub = serve(grounded)
    prices = ["reasoner.price_prompt=1", "reasoner.price_completion=10"]
    done = medground("ground", named, "What explains the shadow?", *recipe(stub), *prices, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["box"] == [30, 22.5, 90, 67.5]
    assert result["frame"]["kind"] == "permille"
    assert result["usage"] == {"prompt_tokens": 900, "completion_tokens": 40, "cost": pytest.approx(0.0013)}
    (raw,) = stub.raw
    _, picture = decoded(stub.received[0])
    sent = raw + base64.b64decode(image(stub.received[0]).partition(",")[2]) + repr(picture.info).encode()
    for letters in (CANARY, CANARY.lower(), "Patient", str(tmp_path)):
        assert letters.encode() not in sent
    assert dict(picture.getexif()) == {}
    assert "What explains the shadow?" in question(stub.received[0])


def files(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_run_records_token_counts_and_no_key(serve, named, here, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.png").write_bytes(named.read_bytes())
    stub = serve(grounded)
    prompts_asked = ["run", tmp_path / "in", "--question", "Where?", "--out", tmp_path / "out", *recipe(stub)]
    done = here(*prompts_asked, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"] == {"prompt_tokens": 1800, "completion_tokens": 80}
    assert all(request["key"] == f"Bearer {KEY}" for request in stub.received)
    again = here(*prompts_asked)
    assert again.returncode == 0 and "1800 prompt_tokens" in again.stderr
    assert len(stub.received) == 2, "what is done stays done"
    written = files(tmp_path / "out") + (done.stdout + done.stderr + again.stderr).encode()
    assert b"MEDGROUND_CANARY_KEY" in written and KEY.encode() not in written


def failing(status):
    return lambda handler, request: reply(handler, {"error": {"message": "no such model"}}, status)


@pytest.mark.parametrize(
    ("status", "words"), [(401, "does not accept the key"), (404, "no such model"), (503, "answered 503")]
)
def test_a_failing_server_ends_with_exit_1_and_one_sentence(serve, named, here, tmp_path, status, words):
    done = here("ground", named, "Where?", *recipe(serve(failing(status))))
    assert done.returncode == 1
    assert words in done.stderr and "transport" in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert KEY.encode() not in files(tmp_path / "grounded")


@pytest.mark.slow
def test_no_traceback_shows_the_key(serve, named, tmp_path):
    done = medground("--debug", "ground", named, "Where?", *recipe(serve(failing(401))), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and KEY not in done.stderr


@pytest.mark.slow
def test_a_run_with_failures_reports_them_and_resumes(serve, named, here, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.png").write_bytes(named.read_bytes())
    stub = serve(lambda handler, request: reply(handler, b"", 500))
    prompts_asked = ["run", tmp_path / "in", "--question", "Where?", "--out", tmp_path / "out", *recipe(stub)]
    done = here(*prompts_asked)
    assert done.returncode == 1 and "2 of 2 inputs were not answered" in done.stderr and "500" in done.stderr
    stub.behave = grounded
    done = here(*prompts_asked)
    assert done.returncode == 0 and "2 of 2 grounded" in done.stderr


@pytest.mark.slow
def test_an_evaluation_leaves_out_transport_failures_and_sums_usage(serve, here, tmp_path):
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
    result = library.evaluate(
        {
            "reasoner": {"name": "openai", **given},
            "prompt_interface": "bbox_points",
            "segmenter": "ellipse",
            "data": {"path": str(tmp_path / "data")},
            "evaluate": {"n_boot": 20},
        },
        out=tmp_path / "eval",
    )
    condition = result.summary.conditions["answer"]
    lost = condition.answers // 3
    assert (
        len(stub.received) == condition.answers == 6
        and condition.excluded == {"transport": lost}
        and not condition.failures
    )
    assert condition.metrics["iou"].n == condition.answers - lost
    assert condition.usage == {"prompt_tokens": 900 * condition.ok, "completion_tokens": 40 * condition.ok}
    causes = [answer.cause for line in result.records for answer in line.answers if answer.fault]
    assert causes == ["the server answered 503"] * lost


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("reasoner.base_url=https://api.example.com/v1", "allow_upload"),
        ("reasoner.api_key_env=MEDGROUND_NOT_SET", "MEDGROUND_NOT_SET is not set"),
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


@pytest.mark.slow
def test_ground_states_once_what_is_sent_to_a_remote_server(named, tmp_path):
    """The address is unused, and the tests' block on sockets refuses it at once."""
    given = ["base_url=http://192.0.2.1:9/v1", "model=m", "frame=unit", "retries=0", "allow_upload=true"]
    prompts_asked = [
        "ground",
        named,
        "Where?",
        "--recipe",
        "infer/openai",
        *[f"reasoner.{setting}" for setting in given],
    ]
    done = medground(*prompts_asked, cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr.count("every image's pixels (PNG, at most 1008 px a side) and every question go to http://192.")
        == 1
    )
    assert "transport" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_doctor_frames_prints_the_measured_frame(serve, tmp_path):
    stub = serve(seeing(lambda size: Frame("permille", size, "yx")))
    given = ["infer/openai", f"reasoner.base_url={stub.url}", "reasoner.model=m", "--json"]
    done = medground("doctor", "frames", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frame"]["kind"] == "permille"
    assert json.loads(done.stdout)["frame"]["order"] == "yx"
    assert "reasoner.frame=permille reasoner.order=yx" in done.stderr
    stub.behave = blind
    done = medground("doctor", "frames", *given, cwd=tmp_path)
    assert done.returncode == 1 and "is not clear" in done.stderr
