"""Files of a run: whole or as before, readable after a kill, locked between processes, on any operating system."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medground.errors import RunError
from medground.runs import files
from medground.runs.files import (
    JsonLines,
    content_sha256,
    lock_folder,
    locked,
    read_json,
    replacing,
    sha256_file,
    write_atomic,
)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "summary.json"
    write_atomic(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "half a character: \ud800")
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_file_is_on_the_disk_before_it_replaces_another_and_its_folder_after(tmp_path, monkeypatch):
    path, order, fsync, replace = tmp_path / "summary.json", [], os.fsync, Path.replace
    write_atomic(path, "first")
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(os.fstat(handle).st_ino) or fsync(handle))
    monkeypatch.setattr(Path, "replace", lambda source, target: order.append("moved") or replace(source, target))
    write_atomic(path, "second")
    assert order == [path.stat().st_ino, "moved", tmp_path.stat().st_ino]


def test_a_disk_that_is_full_is_named_by_the_file_that_was_to_be_written(tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(OSError, match=r"No space left on device: '.*summary\.json'"),
        replacing(tmp_path / "summary.json"),
    ):
        full()
    assert list(tmp_path.iterdir()) == []


def test_lines_come_back_in_order_without_the_one_a_kill_has_torn(tmp_path):
    lines = JsonLines(tmp_path / "events.jsonl")
    assert list(lines.read()) == []
    for step in (1, 2):
        lines.append({"step": step, "text": "ä\u2028"})
    lines.close()
    with lines.path.open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "te')
    assert [line["step"] for line in lines.read()] == [1, 2]
    with pytest.raises(ValueError, match="JSON compliant"):
        lines.append({"loss": float("nan")})
    lines.close()


def test_appended_lines_are_there_before_the_file_is_closed(tmp_path):
    lines = JsonLines(tmp_path / "events.jsonl")
    lines.append({"step": 1})
    assert json.loads(lines.path.read_text()) == {"step": 1}
    lines.close()


def test_lines_can_be_replaced_and_appended_to_again_and_brought_to_the_disk(tmp_path, monkeypatch):
    lines, synced, fsync = JsonLines(tmp_path / "events.jsonl"), [], os.fsync
    lines.sync()  # nothing is open yet
    for _ in range(2):
        lines.append({"step": 1})
        lines.rewrite([{"step": 2}])
        lines.append({"step": 3})
        assert list(lines.read()) == [{"step": 2}, {"step": 3}]
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino) or fsync(handle))
    lines.sync()
    assert synced == [lines.path.stat().st_ino]
    lines.close()


@pytest.mark.parametrize("content", [b"{", b"\xff", b'"text"', b"[" * 100_000, None])
def test_a_damaged_file_of_a_run_is_named(tmp_path, content):
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"state\.json is damaged: ") as error:
        read_json(path, dict[str, int])
    assert error.value.hint == "restore it, or choose another --out"


def test_a_file_of_lines_is_writable_as_far_as_the_mask_of_the_process_allows(tmp_path):
    before = os.umask(0)
    try:
        lines = JsonLines(tmp_path / "events.jsonl")
        lines.append({"step": 1})
        lines.close()
    finally:
        os.umask(before)
    assert lines.path.stat().st_mode & 0o777 == 0o666


def test_lines_are_not_written_through_a_link_or_into_a_file_of_two_names(tmp_path):
    (tmp_path / "other").write_text("mine\n")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(RunError, match=r"link is a link"):
        JsonLines(tmp_path / "link").append({})
    os.link(tmp_path / "other", tmp_path / "second")
    with pytest.raises(RunError, match=r"second is a file with a second name, or none"):
        JsonLines(tmp_path / "second").append({})
    with pytest.raises(IsADirectoryError):
        JsonLines(tmp_path).append({})
    assert (tmp_path / "other").read_text() == "mine\n"


def test_a_lock_is_an_empty_file_of_one_name(tmp_path):
    (tmp_path / "words").write_text("mine")
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("words", "link"):
        with pytest.raises(RunError, match=f"{name} is not a lock of medground"):
            locked(tmp_path / name, "held", "wait")
    locked(tmp_path / "empty", "held", "wait").release()
    assert (tmp_path / "words").read_text() == "mine"


def test_a_folder_with_files_is_locked_and_one_with_a_link_is_not(tmp_path):
    (tmp_path / "run" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "deep" / "file").touch()
    lock_folder(tmp_path / "run").release()
    (tmp_path / "run" / "deep" / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match="link is a link, and nothing is written through it"):
        lock_folder(tmp_path / "run")
    (tmp_path / "run" / "deep" / "link").unlink()
    lock_folder(tmp_path / "run").release()


def test_a_digest_is_kept_once_the_file_is_older_than_its_times_can_tell(tmp_path, monkeypatch):
    path, now, read = tmp_path / "a", files.time.time_ns(), []
    path.write_bytes(b"abc")
    monkeypatch.setattr(files, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    monkeypatch.setattr(files.time, "time_ns", lambda: now)
    for count in (1, 2):
        assert content_sha256(path) == sha256_file(path)
        assert len(read) == count
    monkeypatch.setattr(files.time, "time_ns", lambda: now + 3600 * 10**9)
    for _ in range(2):
        assert content_sha256(path) == sha256_file(path)
        assert len(read) == 3
    path.write_bytes(b"abcd")
    assert content_sha256(path) == sha256_file(path)


HOLD = """
import sys
from pathlib import Path
from medground.runs.files import locked
lock = locked(Path(sys.argv[1]), "held", "wait")
print("locked", flush=True)
sys.stdin.read()
"""


def test_one_process_holds_a_lock_until_it_ends(tmp_path):
    path = tmp_path / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="another process writes here"):
            locked(path, "another process writes here", "wait for it")
    finally:
        holder.kill()
        holder.communicate()
    locked(path, "another process writes here", "wait for it").release()


def test_the_digest_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


WITHOUT = """
import sys
sys.modules["fcntl"] = sys.modules["resource"] = None  # as on Windows: importing them raises ImportError
import medground
from click.testing import CliRunner
from medground.cli import COMMANDS, medground as command
for name in ["", *COMMANDS]:
    result = CliRunner().invoke(command, [name, "--help"] if name else ["--help"])
    assert result.exit_code == 0, (name, result.output, result.exception)
medground.train
medground.sweep
medground.evaluate
"""


@pytest.mark.slow
def test_import_and_help_need_no_posix_modules():
    result = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
