"""The command line as people meet it: commands, exit codes, resumption, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medground
from medground.cli import main
from medground.cli.frames import resolution
from medground.data.inputs import read_inputs
from medground.frames import Frame
from medground.images.read import read_image, read_mask
from medground.images.rle import decode_rle

QUESTION = "Which bright region lies on the left?"


def cli(*arguments: str, capsys=None) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture
def picture(tmp_path) -> Path:
    pixels = np.full((90, 120, 3), 30, np.uint8)
    pixels[30:60, 20:50] = 220
    pixels[30:60, 80:100] = 220
    path = tmp_path / "scan.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path, picture) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(5):
        (folder / f"case{index}.png").write_bytes(picture.read_bytes())
    return folder


def test_help_names_every_command_and_the_statement(capsys):
    assert cli("--help") == 0
    told = capsys.readouterr().out
    for command in ("ground", "run", "recipe", "plugins", "doctor", "fetch", "reward"):
        assert command in told
    assert "not a medical device" in told


@pytest.mark.parametrize("command", ["ground", "run", "recipe", "plugins", "doctor", "fetch", "reward"])
def test_every_command_has_help(command, capsys):
    assert cli(command, "--help") == 0
    assert "Usage: medground " + command in capsys.readouterr().out


@pytest.mark.lane
def test_ground_writes_overlay_mask_and_json(picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli("ground", picture, QUESTION, "--out", out) == 0
    result = json.loads((out / "scan.json").read_text())
    assert result["question"] == QUESTION
    assert len(result["box"]) == 4
    assert "not a medical device" in result["statement"]
    assert read_mask(out / "scan.mask.png").sum() == result["mask"]["area"] > 0
    assert read_image(out / "scan.overlay.png").ndim == 3
    streams = capsys.readouterr()
    assert streams.out == "", "people's text goes to stderr"
    assert "mask" in streams.err


def test_ground_puts_the_mask_into_the_json_on_request(picture, tmp_path, capsys):
    """As the run lengths that COCO's tools read; without the request the JSON holds its figures alone."""
    out = tmp_path / "out"
    assert cli("ground", picture, QUESTION, "--out", out, "--mask", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert np.array_equal(decode_rle(result["mask"]["rle"]), read_mask(out / "scan.mask.png"))
    assert result["mask"]["rle"]["size"] == result["size"] and result["mask"]["area"] > 0
    assert json.loads((out / "scan.json").read_text()) == result
    assert cli("ground", picture, QUESTION, "--out", tmp_path / "plain", "--json") == 0
    figures = {"area", "score", "measures", "presence", "absent", "instances"}
    assert set(json.loads(capsys.readouterr().out)["mask"]) == figures


def test_json_is_the_only_thing_on_stdout(picture, tmp_path, capsys):
    assert cli("ground", picture, QUESTION, "--out", tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fault"] is None


def test_overrides_reach_the_components(picture, tmp_path, capsys):
    assert (
        cli("ground", picture, QUESTION, "segmenter=box_fill", "prompt=box", "--out", tmp_path / "out", "--json") == 0
    )
    result = json.loads(capsys.readouterr().out)
    x1, y1, x2, y2 = result["box"]
    assert result["mask"]["area"] == pytest.approx((x2 - x1) * (y2 - y1), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ground", "absent.png", "where?"], 3, "absent.png does not exist"),
        (["ground", "IMAGE", "where?", "--recipe", "infer/toi"], 2, "infer/toy"),
        (["ground", "IMAGE", "where?", "segmenter=medsma"], 4, "medsam"),
        (["ground", "IMAGE", "where?", "segmenter.depth=3"], 2, "depth"),
        (["ground", "IMAGE"], 2, "QUESTION"),
        (["grond"], 2, "grond"),
        (["run", "IMAGE.missing", "--out", "o"], 3, "does not exist"),
        (["run", "IMAGE", "--out", "o"], 3, "scan.png is one image, not a manifest"),
        (["ground", "IMAGE", "where?", "--out", "IMAGE"], 1, "scan.png cannot be used: File exists"),
        (["doctor", "frames", "infer/toy", "--out", "IMAGE/f.png"], 1, "cannot be used: Not a directory"),
    ],
)
def test_errors_are_one_sentence_with_the_right_exit_code(
    arguments, code, says, picture, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli(*[argument.replace("IMAGE", str(picture)) for argument in arguments]) == code
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told


def test_our_own_bug_is_called_one(picture, monkeypatch, capsys, tmp_path):
    def broken(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("medground.cli.ground.load", broken)
    assert cli("ground", picture, "where?", "--out", tmp_path / "o") == 70
    assert "bug" in capsys.readouterr().err


def test_an_interrupted_command_says_so(picture, monkeypatch, capsys, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("medground.cli.ground.load", interrupted)
    assert cli("ground", picture, "where?", "--out", tmp_path / "o") == 5
    assert "error: interrupted" in capsys.readouterr().err


@pytest.mark.slow
def test_run_writes_a_line_per_input_and_counts_failures(folder, tmp_path, capsys):
    (folder / "broken.png").write_bytes(b"not a picture")
    out = tmp_path / "out"
    assert cli("run", folder, "--question", QUESTION, "--out", out, "--json") == 3
    summary = json.loads(capsys.readouterr().out)
    assert (summary["inputs"], summary["ok"], summary["not_ok"]) == (6, 5, {"unreadable": 1})
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["broken", "case0", "case1", "case2", "case3", "case4"]
    assert "broken.png" in lines[0]["cause"]
    assert medground.load(out).recipe.name, "the run folder is a recipe"


def test_run_reads_manifests_and_names_bad_lines(folder, tmp_path, capsys):
    manifest = folder / "manifest.jsonl"
    good = {"image": "case0.png", "question": QUESTION}
    bad = ["not json", json.dumps({"image": "../scan.png", "question": "x"}), json.dumps({"image": "case1.png"})]
    manifest.write_text("\n".join([json.dumps(good), json.dumps(good), *bad]))
    assert cli("run", manifest, "--out", tmp_path / "out") == 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["case0", "case0-2", "line-3", "line-4", "line-5"]
    assert ["not JSON" in lines[2]["cause"], "outside" in lines[3]["cause"], "question" in lines[4]["cause"]] == [
        True
    ] * 3


@pytest.mark.slow
def test_a_second_run_does_only_what_is_missing(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert cli("run", folder, "--question", QUESTION, "--out", out) == 0
    first = (out / "manifest.jsonl").read_text()
    (folder / "case9.png").write_bytes((folder / "case0.png").read_bytes())
    seen = []
    real = medground.pipeline.pipeline.Pipeline.batch
    monkeypatch.setattr(
        "medground.pipeline.pipeline.Pipeline.batch",
        lambda self, queries: seen.extend(queries) or real(self, queries),
    )
    assert cli("run", folder, "--question", QUESTION, "--out", out) == 0
    assert [query.id for query in seen] == ["case9"]
    assert (out / "manifest.jsonl").read_text().startswith(first)


def test_run_leaves_the_manifest_of_its_input_alone(folder, capsys):
    manifest = folder / "manifest.jsonl"
    manifest.write_text(text := json.dumps({"image": "case0.png", "question": QUESTION, "id": "case0"}) + "\n")
    assert cli("run", manifest, "--out", folder) == 3
    assert "is not the manifest of a run" in capsys.readouterr().err
    assert manifest.read_text() == text
    assert not (folder / "recipe.yaml").exists()


@pytest.mark.slow
def test_another_question_or_another_image_of_the_same_name_is_asked_anew(folder, tmp_path):
    def lines():
        return {
            line["id"]: line for line in map(json.loads, (tmp_path / "out/manifest.jsonl").read_text().splitlines())
        }

    for question in (QUESTION, "Which bright region lies on the right?"):
        assert cli("run", folder, "--question", question, "--out", tmp_path / "out") == 0
        assert {line["question"] for line in lines().values()} == {question}
    # Sorted by name, the new file comes first and takes the id.
    Image.fromarray(np.full((50, 60, 3), 30, np.uint8)).save(folder / "case3.bmp")
    assert cli("run", folder, "--question", question, "--out", tmp_path / "out") == 0
    assert lines()["case3"]["size"] == [50, 60]
    assert lines()["case3-2"]["size"] == [90, 120]


def test_no_two_inputs_share_an_id(folder):
    names = ["case0.png", "case0.png", "case0.png", "case1.png"]
    ids = [None, None, None, "case0-2"]
    pairs = zip(names, ids, strict=True)
    rows = [{"image": name, "question": QUESTION} | ({"id": given} if given else {}) for name, given in pairs]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [item.id for item in read_inputs(folder / "manifest.jsonl")] == ["case0", "case0-3", "case0-4", "case0-2"]


@pytest.mark.slow
def test_another_segmenter_is_another_run(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli("run", folder, "--question", QUESTION, "--out", out) == 0
    assert cli("run", folder, "segmenter=box_fill", "prompt=box", "--question", QUESTION, "--out", out, "--json") == 0
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    for line in lines:  # box_fill fills the box, region_growing does not
        x1, y1, x2, y2 = line["box"]
        assert line["mask"]["area"] == pytest.approx((x2 - x1) * (y2 - y1), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_continues(number, folder, tmp_path):
    for index in range(5, 40):
        (folder / f"case{index:03}.png").write_bytes((folder / "case0.png").read_bytes())
    out = tmp_path / "out"
    command = [sys.executable, "-m", "medground", "run", str(folder), "--question", QUESTION, "--out", str(out)]
    running = subprocess.Popen([*command, "--batch-size", "1"], stderr=subprocess.PIPE, env=dict(os.environ))
    manifest = out / "manifest.jsonl"
    deadline = time.monotonic() + 60
    while (not manifest.exists() or manifest.read_text().count("\n") < 6) and time.monotonic() < deadline:
        assert running.poll() is None
    running.send_signal(number)
    running.wait()
    if number == signal.SIGTERM:
        assert running.returncode == 5
        assert b"run the same command again" in running.stderr.read()
    else:
        manifest.write_bytes(manifest.read_bytes()[:-15])
    running.stderr.close()
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert len(lines) == len({line["id"] for line in lines}) == 40
    assert {line["status"] for line in lines} == {"ok"}


@pytest.mark.slow
def test_doctor_says_what_is_installed(capsys):
    assert cli("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["libraries"]["numpy"]["version"] == np.__version__
    status = {row["module"]: row["status"] for row in found["plugins"]}
    assert status["medground_toy"] == "ok"
    assert set(status.values()) <= {"ok", "extra missing"}, found["plugins"]


@pytest.mark.parametrize("frame", ["pixel", "permille", "unit"])
@pytest.mark.parametrize("order", ["xy", "yx"])
def test_doctor_frames_follows_a_target_through_every_frame(frame, order, picture, tmp_path, capsys):
    drawn = tmp_path / "frames.png"
    overrides = [f"reasoner.frame={frame}", f"reasoner.order={order}"]
    assert cli("doctor", "frames", "infer/toy", *overrides, "--image", picture, "--out", drawn, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["frame"]["kind"] == frame
    hops = {hop["name"]: hop["units"] for hop in report["hops"]}
    assert list(hops) == ["rendered", "parsed", "segment input"]
    assert hops["rendered"] <= 1e-6, "the frame alone costs nothing; only rounding the answer does"
    assert 0.1 < max(hops.values()) <= 0.5
    assert drawn.exists()


@pytest.mark.slow
def test_doctor_frames_counts_fractions_by_the_digits_they_are_written_with(tmp_path, capsys, monkeypatch):
    """Four decimals of 2,600 x 1,800 px resolve 0.26 x 0.18 px: nothing to warn of. An answer 1 % off is far more."""
    big = tmp_path / "big.png"
    Image.fromarray(np.zeros((1800, 2600, 3), np.uint8)).save(big)
    frames = ["doctor", "frames", "infer/toy", "reasoner.frame=unit", "--image", big, "--out", tmp_path / "f.png"]
    assert cli(*frames, "--json") == 0
    assert json.loads(capsys.readouterr().out)["unit_px"] == pytest.approx([0.26, 0.18])
    assert cli(*frames) == 0
    assert "warning" not in capsys.readouterr().out
    exact = Frame.to_pixels
    monkeypatch.setattr(Frame, "to_pixels", lambda self, numbers, size: exact(self, numbers, size) * 1.01)
    assert cli(*frames) == 1
    assert "drift by" in capsys.readouterr().err


@pytest.mark.parametrize(("written", "decimals"), [("[0.25, 0.137]", 3), ("[0, 1]", 3), ("[0.5, 0.13713]", 5)])
def test_fractions_resolve_their_last_digit_and_a_thousandth_at_most(written, decimals):
    found = resolution(Frame("unit", (9, 9)), written, (500, 1000))
    assert found == pytest.approx((1000 / 10**decimals, 500 / 10**decimals))
    assert resolution(Frame("permille", (9, 9)), written, (500, 1000)) == (1.0, 0.5)


@pytest.mark.slow
def test_doctor_frames_warns_where_a_unit_is_coarse_and_fails_on_a_wrong_frame(tmp_path, capsys, monkeypatch):
    big = tmp_path / "big.png"
    Image.fromarray(np.zeros((1800, 2600, 3), np.uint8)).save(big)
    frames = ["doctor", "frames", "infer/toy", "reasoner.frame=permille", "--image", big, "--out", tmp_path / "f.png"]
    assert cli(*frames) == 0
    assert "2.60 x 1.80 px" in capsys.readouterr().out

    def shifted(self, numbers, size):
        return np.asarray(numbers, float) * 1.01

    monkeypatch.setattr("medground.frames.Frame.to_pixels", shifted)
    assert cli(*frames) == 1
    assert "drift" in capsys.readouterr().err
