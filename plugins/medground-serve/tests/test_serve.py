"""The HTTP interface of a real server: what it answers, to whom, and what it keeps for itself."""

import base64
import io
import json
import re
import select
import socket
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from medground_serve.client import Client, ServeError
from PIL import Image
from serving import Server, form

from medground.cli import main
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


@pytest.fixture
def ground(tmp_path, monkeypatch, capsys):
    """The command line in an empty folder: its answer about `scene()`."""

    def run(*words):
        (tmp_path / "image.png").write_bytes(scene())
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as left:
            main(["ground", "image.png", QUESTION, "--json", *words])
        assert not left.value.code
        return json.loads(capsys.readouterr().out)

    return run


def test_the_answer_is_that_of_the_command_line(server, ground):
    expected = ground("--mask")
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


@pytest.mark.parametrize(
    "path", ["/info", "/metrics", "/openapi.json", "/images/x", "/nowhere", "/page/../info", "//health", "/health/"]
)
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


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:8000", "", "[::1].evil", "127.0.0.1:80@evil"]
)
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


def test_the_log_has_no_question_file_name_identifier_or_word_of_a_file(server):
    """Nor what stands in a path, a header, a cookie or an answer that failed."""
    _, answer = server.ground(scene(), "Does Anna Mueller have a tumour?")
    server.get(f"/images/{answer['image']}")
    server.get("/Mueller?name=Mueller", Cookie="a=Mueller", User_Agent="Mueller", Referer="http://Mueller/")
    server.request("POST", "/Mueller", b"Mueller", token="Mueller")
    server.ground(b"Mueller", "Mueller", plane="Mueller", window="Mueller", masks="Mueller")
    server.ground(None, "Mueller", image="Mueller")
    server.post("/segment", {"Mueller": "Mueller", "image": answer["image"], "text": "Mueller"})
    server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Mueller"}]})
    scan = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False)).read_bytes()
    for content, status in ((scan, 200), (scan[:3000], 422)):
        body, kind = form({"question": "Mueller"}, content, name="Mueller.dcm")
        assert b"CompressedSamples^CT1" in content
        assert server.request("POST", "/ground", body, Content_Type=kind)[0] == status
    assert server.request("POST", "/ground", b"--limit\r\nMueller: Mueller", Content_Type=kind)[0] == 400
    log = server.log.read_text()
    assert "POST /ground 200" in log and "GET other 404" in log
    for word in ("Mueller", "Anna", "tumour", answer["image"], server.token, "CompressedSamples", "Traceback"):
        assert word not in log


@pytest.mark.parametrize(
    "path",
    [
        "/images/x%0d%0aX-Evil:%20a",
        "/images/..%2f..%2f..%2fetc%2fpasswd",
        "/images/%00",
        "/%0d%0aX-Evil:%20a",
        "//evil.example/",
        "/images/{{7*7}}",
        "/images/" + "a" * 5000,
    ],
)
def test_nothing_of_a_path_becomes_a_header_a_file_or_a_label(server, path):
    status, headers, body = server.get(path)
    assert status == 404 and "x-evil" not in headers and "location" not in headers and b"root:" not in body
    assert all(word not in server.get("/metrics")[2] for word in (b"evil", b"7*7", b"aaaa"))


def test_a_question_is_text_whatever_it_looks_like(server):
    _, plain = server.ground(scene(), "Which?")
    for question in (
        "{{7*7}}",
        "${oc.env:HOME}",
        "{question}",
        "%s%n",
        "</answer>",
        "a\r\nSet-Cookie: a=b",
        "\0",
        "\u202e",
    ):
        status, answer = server.ground(scene(), question)
        assert status == 200 and answer["box"] == plain["box"]


def test_labels_of_counters_do_not_grow_with_what_clients_ask(server):
    def rows():
        return len(server.get("/metrics")[2].splitlines())

    server.request("BREW", "/a")
    server.get("/images/none")
    before = rows()
    for number in range(50):
        server.get(f"/{number}")
        server.get(f"/images/{number}?a={number}")
        server.request(f"BREW{number}", "/a")
    assert rows() == before


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


@pytest.mark.slow
def test_our_own_openai_plugin_asks_the_reasoner_of_a_server(server, ground, monkeypatch):
    monkeypatch.setenv("MEDGROUND_TOKEN", server.token)
    words = [f"reasoner.base_url={server.url}/v1", "reasoner.model=toy", "reasoner.frame=pixel"]
    words += ["reasoner.api_key_env=MEDGROUND_TOKEN", "prompt_interface=bbox_points", "segmenter=region_growing"]
    answer = ground("--recipe", "infer/openai", *words)
    _, expected = server.ground(scene(), QUESTION)
    # The plugin sends the image in another size, so the numbers of the text differ.
    assert np.allclose(answer["box"], expected["box"], atol=1.5) and answer["think"] == expected["think"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http://", "HTTP://", "//", "file:///etc/passwd#", "data:text/html,"])
def test_an_image_by_address_is_never_fetched(server, scheme):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"{scheme}127.0.0.1:{listening.getsockname()[1]}/a.png"
        part = {"type": "image_url", "image_url": {"url": url}}
        status, answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
        assert status == 422 and "data URL" in answer["error"]
        assert server.ground(None, QUESTION, image=url)[0] == 404
        assert server.post("/segment", {"image": url, "box": [1, 1, 9, 9]})[0] in (404, 422)
        assert not select.select([listening], [], [], 0)[0]
