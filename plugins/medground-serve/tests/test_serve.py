"""The HTTP interface of a real server: what it answers, to whom, and what it keeps for itself."""

import base64
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from medground_serve.client import Client, ServeError
from PIL import Image
from serving import Server, form

from medground.images.pictures import png_bytes
from medground.images.rle import decode_rle

QUESTION = "Which bright spot is new?"


def scene(radius=12):
    """Return a dark picture of 80 x 100 with a bright disc at (60, 30), as PNG."""
    y, x = np.mgrid[:80, :100]
    return png_bytes(np.where(np.hypot(x - 60, y - 30) < radius, 210, 40).astype(np.uint8))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(folder=tmp_path_factory.mktemp("serve")).wait_ready()
    yield server
    assert server.stop() == 0


def test_the_answer_is_that_of_the_command_line(server, tmp_path):
    (tmp_path / "image.png").write_bytes(scene())
    command = [sys.executable, "-m", "medground", "ground", "image.png", QUESTION, "--json", "--mask"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    expected = json.loads(done.stdout)
    status, answer = server.ground(scene(), QUESTION)
    assert status == 200 and answer.pop("image")
    assert answer.pop("files") == {} and expected.pop("files")
    assert answer == expected and answer["mask"]["rle"]["counts"]


def test_masks_come_as_pictures_where_asked(server):
    _, lengths = server.ground(scene(), QUESTION)
    _, pictures = server.ground(scene(), QUESTION, masks="png")
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures["mask"]["png"]))))
    assert (mask > 0).tolist() == decode_rle(lengths["mask"]["rle"]).tolist()
    assert "rle" not in pictures["mask"] and "png" in pictures["regions"][0]["mask"]
    assert "rle" not in server.ground(scene(), QUESTION, masks="none")[1]["mask"]


def test_a_stored_image_is_asked_about_again_shown_and_deleted(server):
    _, first = server.ground(scene(), QUESTION)
    _, again = server.ground(None, QUESTION, image=first["image"])
    assert again["box"] == first["box"]
    path = f"/images/{first['image']}"
    shown = json.loads(server.get(path)[2])
    assert shown["size"] == [80, 100] and shown["kind"] == "picture"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["png"]))))
    assert (pixels[..., 0] == np.asarray(Image.open(io.BytesIO(scene())))).all()
    assert server.request("DELETE", path)[0] == 204
    assert server.get(path)[0] == 404
    assert server.ground(None, QUESTION, image=first["image"])[0] == 404


def test_the_segmenter_alone_draws_what_a_box_or_a_point_says(server):
    image = server.ground(scene(), QUESTION)[1]["image"]
    y, x = np.mgrid[:80, :100]
    disc = np.hypot(x - 60, y - 30) < 12
    for prompt in ({"box": [47, 17, 73, 43]}, {"points": [[60.5, 30.5]], "labels": [1]}):
        status, answer = server.post("/segment", {"image": image, **prompt})
        mask = decode_rle(answer["regions"][0]["mask"]["rle"])
        assert status == 200 and (mask & disc).sum() / (mask | disc).sum() > 0.9
        assert answer["regions"][0]["prompt_kinds"] == list({"box": ["box"], "points": ["points"]}[next(iter(prompt))])


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ({}, "nothing to segment"),
        ({"box": [9, 9, 3, 3]}, "no area"),
        ({"text": "nodule"}, "does not take text"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "labels"),
        ({"box": [1, 2, 3]}, "box"),
        ({"boxes": []}, "boxes"),
        ({"box": [0, 0, 1e300, 5]}, "box"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused_in_a_sentence(server, prompt, word):
    image = server.ground(scene(), QUESTION)[1]["image"]
    status, answer = server.post("/segment", {"image": image, **prompt})
    assert status == 422 and word in answer["error"]


def test_progress_comes_as_events_and_the_answer_last(server):
    _, expected = server.ground(scene(), QUESTION)
    status, text = server.ground(scene(), QUESTION, accept="text/event-stream")
    events = re.findall(r"^event: (\w+)\ndata: (.*)$", text, re.MULTILINE)
    names = [name for name, _ in events]
    assert status == 200 and names == ["queue", "stage", "text", "stage", "answer"]
    assert json.loads(events[2][1])["text"] == expected["text"]
    answer = json.loads(events[-1][1])
    assert {**answer, "image": ""} == {**expected, "image": ""}


def test_an_error_is_an_event_too(server):
    _, text = server.ground(b"no image", QUESTION, accept="text/event-stream")
    name, data = re.findall(r"^event: (\w+)\ndata: (.*)$", text, re.MULTILINE)[-1]
    assert name == "error" and json.loads(data)["status"] == 422


@pytest.mark.parametrize("path", ["/info", "/metrics", "/openapi.json", "/images/x", "/nowhere", "/page/../info"])
@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_nothing_but_the_page_and_two_states_is_answered_without_the_token(server, path, token):
    headers = {} if not token else {"Authorization": f"Bearer {token}".encode().decode("latin-1")}
    status, _, body = server.request("GET", path, token="", **headers)
    assert status == 401 and json.loads(body)["hint"]


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/page/page.js", "/page/page.css"])
def test_the_page_and_two_states_need_no_token(server, path):
    status, headers, body = server.request("GET", path, token="")
    assert status == 200 and server.token not in body.decode()
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/page/app.py", "/page/%2e%2e%2fapp.py", "/page/..%2f..%2fpyproject.toml", "/docs"])
def test_no_other_file_is_served(server, path):
    assert server.get(path)[0] in (401, 404)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:8000", ""])
def test_another_host_s_name_is_refused_even_with_the_token(server, host):
    assert server.get("/health", Host=host)[0] == 400
    assert server.get("/info", Host=host)[0] == 400


def test_other_origins_get_no_permission(server):
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    status, answer, _ = server.request("OPTIONS", "/ground", token="", **headers)
    assert status == 401 and not [name for name in answer if name.startswith("access-control")]


def test_the_description_lists_every_route(server):
    paths = json.loads(server.get("/openapi.json")[2])["paths"]
    assert {"/ground", "/segment", "/images", "/images/{image}", "/v1/chat/completions", "/metrics"} <= paths.keys()


def test_counters_are_in_the_text_format_of_prometheus(server):
    server.ground(scene(), QUESTION)
    _, headers, text = server.get("/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    line = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    lines = text.decode().splitlines()
    assert lines and all(one.startswith(("# HELP ", "# TYPE ")) or line.fullmatch(one) for one in lines)
    assert any(one.startswith('medground_requests_total{method="POST",route="/ground",status="200"} ') for one in lines)


def test_the_log_has_no_question_file_name_or_identifier(server):
    _, answer = server.ground(scene(), "Does Anna Mueller have a tumour?")
    server.get(f"/images/{answer['image']}")
    server.get("/Mueller")
    server.ground(b"no image", "Mueller")
    log = server.log.read_text()
    assert "POST /ground 200" in log and "GET other 404" in log
    for word in ("Mueller", "Anna", "tumour", answer["image"], server.token):
        assert word not in log


@pytest.mark.parametrize(
    ("fields", "picture"),
    [
        ({"question": "Which?"}, None),
        ({"question": "Which?", "image": "x"}, scene()),
        ({}, scene()),
        ({"question": "?"}, b""),
    ],
)
def test_a_question_needs_a_text_and_exactly_one_image(server, fields, picture):
    body, kind = form(fields, picture)
    status, _, text = server.request("POST", "/ground", body, Content_Type=kind)
    assert status == 422 and json.loads(text)["error"]


def test_a_body_of_another_type_is_refused(server):
    assert server.post("/ground", {"question": "Which?"})[0] == 422


def test_the_client_asks_and_corrects(server, tmp_path):
    (tmp_path / "scan.png").write_bytes(scene())
    client = Client(server.address)
    answer = client.ground(tmp_path / "scan.png", QUESTION)
    region = client.segment(answer["image"], box=answer["box"])["regions"][0]
    assert region["mask"]["area"] > 300
    with pytest.raises(ServeError, match="no area"):
        client.segment(answer["image"], box=[5, 5, 5, 5])


def test_our_own_openai_plugin_asks_the_reasoner_of_a_server(server, tmp_path):
    (tmp_path / "image.png").write_bytes(scene())
    words = [f"reasoner.base_url={server.url}/v1", "reasoner.model=toy", "reasoner.frame=pixel"]
    command = [sys.executable, "-m", "medground", "ground", "image.png", QUESTION, "--json", "--recipe", "infer/openai"]
    key = {"MEDGROUND_TOKEN": server.token}
    words += ["reasoner.api_key_env=MEDGROUND_TOKEN", "prompt_interface=bbox_points", "segmenter=region_growing"]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, env=os.environ | key)
    assert done.returncode == 0, done.stderr.decode()
    _, expected = server.ground(scene(), QUESTION)
    answer = json.loads(done.stdout)
    # The plugin sends the image in another size, so the numbers of the text differ.
    assert np.allclose(answer["box"], expected["box"], atol=1.5) and answer["think"] == expected["think"]


def test_an_image_by_address_is_never_fetched(server):
    part = {"type": "image_url", "image_url": {"url": f"{server.url}/health"}}
    status, answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
    assert status == 422 and "data URL" in answer["error"]


@pytest.mark.slow
def test_many_questions_about_one_image_encode_it_once(tmp_path):
    server = Server("infer/toy", "segmenter=mini_sam", folder=tmp_path).wait_ready()
    image = server.ground(scene(), QUESTION)[1]["image"]
    for index in range(20):
        box = [47 - index % 3, 17, 73, 43 + index % 5]
        assert server.post("/segment", {"image": image, "box": box})[0] == 200
    assert server.counter("medground_encodes_total") == 1
    assert server.stop() == 0
