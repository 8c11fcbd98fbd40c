"""No text that others wrote moves, hides or reorders anything on a terminal, and a missing terminal ends no work."""

import io
import os
import pty
import signal
import subprocess
import sys

import numpy as np
import pytest
from medground_toy import phantoms
from PIL import Image

from medground.cli import main
from medground.progress import progress, training_progress
from medground.recipe import sources
from medground.terminal import clean_streams, printable

PAYLOADS = {
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "clear screen": "\x1b[2J\x1b[H",
    "hidden text": "\x1b[8mhidden\x1b[0m",
    "cursor up": "\x1b[1A\x1b[2K",
    "reset": "\x1bc",
    "device control": "\x1bP1$r0m\x1b\\",
    "C1 control sequence": "\x9b2J",
    "C1 operating system command": "\x9d0;owned\x9c",
    "carriage return": "fault\rok   ",
    "backspaces": "bad\b\b\bgood",
    "bell": "\x07",
    "null": "\x00",
    "vertical tab and form feed": "\x0b\x0c",
    "delete": "\x7f",
    "right to left": "\u202egnp.exe",
    "isolates": "\u2066left\u2069\u061c",
    "zero width": "can\u200bcer\u200d\ufeff\u2060",
    "tags and soft hyphen": "\U000e0041\U000e0042\u00ad",
    "line separators": "one\u2028two\u2029three\x85four",
}
ALL = "|".join(PAYLOADS.values())

PLUGIN = """
import os
import medground
from medground import Completion, Frame

TEXT = os.environ["PAYLOADS"].encode().decode("unicode_escape")

class Shouting:
    def frame(self, size):
        return Frame("pixel", size)

    def generate(self, batch, sampling):
        text = '<think>' + TEXT + '</think><answer>{"bbox": [9, 9, 30, 30]}</answer>'
        return [[Completion(text=text, frame=Frame("pixel", (40, 40)))] for _ in batch]

class Refusing:
    def __init__(self):
        raise ValueError(TEXT)

@medground.hookimpl
def register_reasoners(register):
    register("shouting", Shouting)
    register("refusing", Refusing)
"""


def controls(text):
    """Return the characters of a text that a terminal acts on, or that are not seen."""
    return sorted({hex(ord(char)) for char in text if not (char.isprintable() or char in "\n\t")})


@pytest.fixture
def shouting(site, install, monkeypatch):
    """A plugin whose words, version and metadata are the payloads."""
    monkeypatch.setenv("PAYLOADS", ALL.encode("unicode_escape").decode())
    names = {"reasoner.shouting": "medground_shouting", "reasoner.refusing": "medground_shouting"}
    names["reasoner.\x1b]0;owned\x07\u202e"] = "medground_absent"
    install(site, "medground-shouting", names, PLUGIN, version="1.0\x1b[2J\u200b")
    return site


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


def cli(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_is_text_when_it_is_printed(name):
    stream = io.StringIO()
    kept, sys.stdout = sys.stdout, stream
    try:
        with clean_streams():
            sys.stdout.write(f"before {PAYLOADS[name]} after\n\tend")
    finally:
        sys.stdout = kept
    assert controls(stream.getvalue()) == []
    assert stream.getvalue().startswith("before ") and stream.getvalue().endswith(" after\n\tend")


def test_text_of_any_language_stays_as_it_is():
    text = "Läsion 病変 поражение εὖ 1\u00d72 mm² µ → ≤ 😀\nnext\tcolumn"
    assert printable(text) == text
    assert printable("10\u00a0mm\u2009wide\u3000") == "10 mm wide ", "a space stays a space"


@pytest.mark.slow
def test_words_of_models_files_errors_and_metadata_are_cleaned(shouting, picture, tmp_path, capfd):
    odd = tmp_path / f"scan {ALL.replace(chr(0), '').replace('/', '')[:80]}.png"
    odd.write_bytes(picture.read_bytes())
    toy = ("--recipe", "infer/toy", "--out", tmp_path / "out")
    codes = {
        "think": cli("ground", picture, f"Where? {ALL}", *toy, "reasoner=shouting", "prompt_interface=bbox"),
        "file name": cli("ground", odd, "Where?", *toy),
        "absent file": cli("ground", tmp_path / f"absent{PAYLOADS['title']}.png", "Where?", *toy),
        "error": cli("ground", picture, "Where?", *toy, "reasoner=refusing"),
        "traceback": cli("--debug", "ground", picture, "Where?", *toy, "reasoner=refusing"),
        "run": cli("run", tmp_path, "--question", ALL, *toy, "reasoner=shouting", "prompt_interface=bbox"),
        "usage": cli("ground", picture, "Where?", f"--{PAYLOADS['right to left']}"),
        "unknown component": cli("ground", picture, "Where?", *toy, f"segmenter={PAYLOADS['clipboard'][1:-1]}"),
        "plugins": cli("plugins", "list"),
    }
    told = capfd.readouterr()
    assert codes == {
        "think": 0, "file name": 0, "absent file": 3, "error": 2, "traceback": 1, "run": 0, "usage": 2,
        "unknown component": 2, "plugins": 0,
    }  # fmt: skip
    assert controls(told.out + told.err) == []
    for word in ("]52;c;ZXZpbA==", "]0;owned", "gnp.exe", "cancer", "medground-shouting"):
        assert word in told.out + told.err, "its text is there"


@pytest.mark.parametrize("live", ["bar", "dashboard"])
def test_messages_above_a_live_display_are_cleaned(live, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with clean_streams():
        if live == "bar":
            with progress("grounding", total=2) as advance:
                sys.stderr.write(f"a plugin says {ALL}\n")
                advance(2)
        else:
            with training_progress() as (begin, report):
                begin(0, 2)
                sys.stderr.write(f"a plugin says {ALL}\n")
                report(1, {"reward": 0.5, f"reward/{PAYLOADS['clipboard']}{PAYLOADS['right to left']}/mean": 0.5})
    told = terminal.getvalue()
    assert "]52;c;ZXZpbA==" in told and "\x1b]" not in told, "the display's own sequences all begin with ESC ["
    assert not set(controls(told)) - {hex(0x1B), hex(0x0D)}
    assert "\x1b[2J" not in told and "\x1bc" not in told


@pytest.mark.slow
def test_a_table_on_a_real_terminal_is_cleaned(shouting):
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(shouting), os.environ["PYTHONPATH"]]),
        "TERM": "xterm",
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "medground", "plugins", "list", "--kind", "reasoner"],
        stdout=theirs, stderr=theirs, env={**environment, "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    told = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the child has closed its side
            break
        if not piece:
            break
        told += piece
    os.close(ours)
    assert child.wait() == 0
    text = told.decode().replace("\r\n", "\n")
    assert "shouting" in text and "\x1b]" not in text and "\x1b[2J" not in text
    assert not set(controls(text)) - {hex(0x1B)}


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "<&-", "<&- 1>&- 2>&-", "2>/dev/full"])
def test_a_closed_stream_ends_no_run(closed, picture, tmp_path):
    if "/dev/full" in closed and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    out = tmp_path / "out"
    command = f'"{sys.executable}" -m medground run "{tmp_path}" --question Where? --out "{out}" {closed}'
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert (out / "manifest.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_a_result_that_cannot_be_written_is_no_success(picture, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    command = f'"{sys.executable}" -m medground recipe show infer/toy >/dev/full'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "No space left" in done.stderr and "Traceback" not in done.stderr


COMMANDS = {
    "ground": ("scan.png", "Where?"),
    "run": (".", "--question", "Where?", "--out", "out"),
    "train": ("train/toy", "data.path=.", "--out", "out"),
    "eval": ("eval/oracle", "data.path=.", "--out", "out"),
    "sweep": ("finished/sweep.yaml", "data.path=.", "--out", "out"),
    "export": ("finished", "--to", "out"),
    "fetch": ("infer/toy",),
    "recipe": ("show", "infer/toy"),
    "reward": ("audit", "train/toy"),
    "doctor": ("frames", "infer/toy"),
    "data": ("build", ".", "--out", "out", "--questions", "reasoner", "--recipe", "infer/toy", "--yes"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_sigterm_interrupts_every_command(command, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    phantoms.write(tmp_path, phantoms.samples(2, seed=0, size=(40, 40)))
    (tmp_path / "finished").mkdir()
    for name in ("train.yaml", "recipe.yaml"):
        (tmp_path / "finished" / name).write_text("reasoner: toy\n")
    variants = "variants: {ellipse: {}, fill: {segmenter: box_fill}}"
    (tmp_path / "finished" / "sweep.yaml").write_text(f"extends: infer/toy\n{variants}\n")
    interrupted, original = [], sources.read_file

    def read_file(path, label):
        if not interrupted:
            interrupted.append(path)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(path, label)

    monkeypatch.setattr(sources, "read_file", read_file)
    before = signal.getsignal(signal.SIGTERM)
    code = cli(command, *COMMANDS[command])
    told = capsys.readouterr().err
    assert interrupted and code == 5, told
    assert "interrupted" in told or "stopped" in told
    assert not (tmp_path / "grounded").exists() and not (tmp_path / "frames.png").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_is_blamed_on_the_file_that_is_written(monkeypatch, capsys):
    def read_file(path, label):
        raise OSError(28, "No space left on device", "source.png", None, "copy.png")

    monkeypatch.setattr(sources, "read_file", read_file)
    assert cli("recipe", "show", "infer/toy") == 1
    assert "copy.png cannot be used: No space left on device" in capsys.readouterr().err
