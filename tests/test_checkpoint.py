"""Checkpoints are whole or not there."""

import errno
import json
import os
import re

import pytest

from medground.errors import RecipeError, RunError
from medground.runs import failpoints
from medground.runs.checkpoint import NEWEST_KEPT, Checkpoints, verify


def content(step):
    def write(folder):
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(bytes([step]) * 1000)
        (folder / "state.json").write_text(str(step))

    return write


@pytest.fixture
def saved(tmp_path):
    checkpoints, published = Checkpoints(tmp_path / "checkpoints"), []
    for step in (2, 4, 6):
        checkpoints.save(step, content(step), published.append)
    assert [path.name for path in published] == ["step-00000002", "step-00000004", "step-00000006"]
    return checkpoints


def test_two_are_kept_and_the_newest_is_found(saved):
    assert saved.steps() == [6, 4]
    assert len(saved.steps()) == NEWEST_KEPT
    assert saved.newest() == saved.path(6)
    assert Checkpoints(saved.folder.parent / "none").newest() is None


@pytest.mark.parametrize("name", ["model/weights", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_is_used(saved, caplog, name, harm):
    """K2: one bit anywhere is seen."""
    path = saved.path(6) / name
    data = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-1] if harm == "cut" else data)
    assert saved.newest() == saved.path(4)
    assert "step-00000006 is damaged" in caplog.messages[0]
    assert saved.steps() == [4]
    saved.save(6, content(6), lambda path: None)
    assert saved.newest() == saved.path(6)


def test_a_newer_format_is_refused_and_nothing_is_touched(saved):
    manifest = saved.path(6) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(RunError, match="format 99"):
        saved.newest()
    assert saved.steps() == [6, 4]


@pytest.mark.parametrize("point", ["save.before_manifest", "save.before_rename"])
@pytest.mark.parametrize("number", ["enospc", "eio"])
def test_a_full_or_broken_disk_is_a_clear_error_and_earlier_checkpoints_stay(saved, monkeypatch, point, number):
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:{number}")
    failpoints._passed.clear()
    with pytest.raises(RunError) as found:
        saved.save(8, content(8), pytest.fail)
    reason = os.strerror(getattr(errno, number.upper()))
    assert found.value.message == f"the checkpoint of step 8 could not be written: {reason}"
    assert re.search(r"1,\d\d\d bytes were written before that and [\d,]+ are free", str(found.value))
    assert sorted(path.name for path in saved.folder.iterdir()) == ["step-00000004", "step-00000006"]
    assert verify(saved.path(6)) is None


def test_a_failure_without_a_number_is_told_in_its_words(saved):
    def write(folder):
        raise OSError("the share is gone")

    with pytest.raises(RunError, match="step 8 could not be written: the share is gone"):
        saved.save(8, write, pytest.fail)


def test_a_file_too_many_or_a_link_in_a_checkpoint_is_damage(saved, tmp_path):
    path = saved.path(6)
    (path / "model" / "more").touch()
    assert verify(path) == "model/more is not in its manifest"
    (path / "model" / "more").unlink()
    assert verify(path) is None
    (path / "state.json").rename(tmp_path / "state.json")
    (path / "state.json").symlink_to(tmp_path / "state.json")
    assert verify(path) == "state.json is missing"


@pytest.mark.parametrize("change", [{"format": 0}, {"files": {}}])
def test_a_manifest_of_no_format_or_without_files_is_damage(saved, change):
    manifest = saved.path(6) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    assert verify(saved.path(6)) == "its manifest is of no format, or empty"


def synced(monkeypatch):
    """Return the list that grows by the identity of every file and folder that is brought to the disk."""
    identities, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: identities.append(os.fstat(handle).st_ino) or fsync(handle))
    return identities


def test_every_file_and_folder_of_a_checkpoint_is_on_the_disk_before_it_gets_its_name(saved, monkeypatch):
    identities, before, rename = synced(monkeypatch), [], type(saved.folder).rename

    def renamed(path, target):
        before.append(set(identities))
        return rename(path, target)

    monkeypatch.setattr(type(saved.folder), "rename", renamed)
    final = saved.save(8, content(8), lambda path: before.append(set(identities)))
    whole = {path.stat().st_ino for path in (final, *final.rglob("*"))}
    assert len(whole) == 5
    assert whole <= before[0], "before the rename"
    assert saved.folder.stat().st_ino in before[1] - before[0], "the rename itself, before it is published"


def test_older_checkpoints_stay_until_the_new_one_is_published(saved):
    steps = []
    saved.save(8, content(8), lambda path: steps.extend(saved.steps()))
    assert steps == [8, 6, 4]
    assert saved.steps() == [8, 6]


def test_a_checkpoint_whose_removal_is_interrupted_does_not_look_like_one(saved, monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "prune.mid:eio")
    failpoints._passed.clear()
    with pytest.raises(OSError, match=r"prune\.mid"):
        saved.save(8, content(8), lambda path: None)
    assert saved.steps() == [8, 6]
    assert saved.clean() == [f".tmp-prune-00000004-{os.getpid()}"]


def test_leftovers_of_killed_saves_are_removed(saved):
    for name in (".tmp-00000008-1", ".tmp-prune-00000002-1"):
        (saved.folder / name).mkdir()
        (saved.folder / name / "part").write_text("x")
    assert saved.clean() == [".tmp-00000008-1", ".tmp-prune-00000002-1"]
    assert saved.clean() == []
    assert saved.steps() == [6, 4]


def test_a_misspelt_fault_point_is_an_error(monkeypatch):
    monkeypatch.setenv(failpoints.VARIABLE, "save.before_renam:kill")
    with pytest.raises(RecipeError, match=r"save\.before_rename"):
        failpoints.failpoint("save.before_rename")
