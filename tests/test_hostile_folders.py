"""Folders that another hand has changed: nothing is written through a link, what was tampered with is refused."""

import json
import os
import shutil

import pytest
from medground_toy import phantoms

import medground
from medground.cli import main
from medground.errors import InputError, RunError
from medground.runs.checkpoint import Checkpoints, verify
from medground.runs.files import JsonLines, lock_folder, locked, replacing, write_atomic
from medground.runs.folder import RunFolder, RunMetadata, read_events, read_metadata
from medground.runs.inputs import RunInputs
from medground.sweeps.run import sweep

PRECIOUS = "precious\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, phantoms.samples(2, seed=1, size=(64, 64)))
    return folder


@pytest.fixture
def victim(tmp_path):
    """A file and a folder outside of every run's folder."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text(PRECIOUS)
    return folder


def untouched(victim):
    return [path.name for path in victim.iterdir()] == ["file"] and (victim / "file").read_text() == PRECIOUS


def recipe(data, **more):
    return {
        "reasoner": "toy",
        "prompt_interface": "bbox_points",
        "segmenter": "ellipse",
        "data": {"path": str(data)},
        "evaluate": {"n_boot": 20, "pictures": 0},
        **more,
    }


def run(data, out):
    with pytest.raises(SystemExit) as ended:
        main(["run", str(data / "manifest.jsonl"), "--out", str(out)])
    return ended.value.code


def evaluate(data, out):
    medground.evaluate(recipe(data), out=out, resume=(out / "run.json").exists())


def swept(data, out):
    sweep(recipe(data, variants={"a": {}}), out=out, resume=(out / "trials").exists())


def trained(data, out):
    """Begin and end a run's records, as training does before its first step and after its last."""
    folder = RunFolder(out, medground.load("infer/toy").recipe)
    try:
        folder.begin(RunMetadata(recipe="mine"), RunInputs())
        folder.completions(1, [{"name": "a", "completion": "x"}])
    finally:
        folder.close()


WRITERS = {"run": run, "eval": evaluate, "sweep": swept, "train": trained}
LINKS = [
    *[("run", name) for name in (".lock", "manifest.jsonl", "recipe.yaml", "recipe.source.yaml", "results")],
    *[("eval", name) for name in (".lock", "samples.jsonl", "run.json", "recipe.yaml", "inputs.json", "report.html")],
    *[("sweep", name) for name in (".lock", "store", "trials", "sweep.json")],
    *[("train", name) for name in (".lock", "events.jsonl", "train.yaml", "completions", "checkpoints", "run.json")],
]


@pytest.mark.parametrize(("command", "name"), LINKS)
def test_nothing_is_written_through_a_link_in_a_run(command, name, data, victim, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    folder = name in ("results", "store", "trials", "completions", "checkpoints")
    (out / name).symlink_to(victim if folder else victim / "file")
    try:
        code, sentence = WRITERS[command](data, out), capsys.readouterr().err
    except (RunError, InputError) as error:
        code, sentence = error.exit_code, str(error)
    assert code in (1, 3)
    assert name in sentence and "bug" not in sentence
    assert untouched(victim)


@pytest.mark.parametrize("command", WRITERS)
def test_a_finished_folder_is_not_continued_through_a_link_inside(command, data, victim, tmp_path, capsys):
    out = tmp_path / "out"
    WRITERS[command](data, out)
    (out / "deeper").mkdir()
    (out / "deeper" / "link").symlink_to(victim)
    try:
        code = WRITERS[command](data, out)
    except RunError as error:
        code = error.exit_code
        assert "deeper/link is a link" in str(error) and f"rm {out}" in error.hint
    assert code == 1
    assert untouched(victim)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.jsonl", "recipe.yaml", "results/1.json", ".lock"])
def test_a_file_with_a_second_name_elsewhere_keeps_its_content_there(name, data, tmp_path):
    out, copy = tmp_path / "out", tmp_path / "copy"
    assert run(data, out) == 0
    path = next(out.glob(name.replace("1", "*")))
    if name == ".lock":
        path.write_text(PRECIOUS)
    os.link(path, copy)
    before = copy.read_bytes()
    shutil.rmtree(out / "results") if name != "results/1.json" else (path.with_suffix(".mask.png")).unlink()
    assert run(data, out) == (1 if name == ".lock" else 0)
    assert copy.read_bytes() == before


def test_lines_are_not_appended_to_a_link_or_a_second_name(tmp_path, victim):
    (tmp_path / "link.jsonl").symlink_to(victim / "file")
    os.link(victim / "file", tmp_path / "second.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("link", "second", "pipe"):
        with pytest.raises(RunError, match=f"{name}.jsonl is a"):
            JsonLines(tmp_path / f"{name}.jsonl").append({"a": 1})
    assert (victim / "file").read_text() == PRECIOUS


def test_a_replaced_file_is_another_one_until_it_is_whole(tmp_path):
    path, copy = tmp_path / "file", tmp_path / "copy"
    write_atomic(path, "first")
    os.link(path, copy)
    with replacing(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert (path.read_text(), copy.read_text()) == ("second", "first")


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".tmp-123-report.html").write_text("half")
    (tmp_path / ".tmp-notes").write_text("a user's own")
    lock_folder(tmp_path).release()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".tmp-notes"]


@pytest.mark.parametrize("command", WRITERS)
def test_of_two_writers_to_a_folder_the_second_is_refused(command, data, tmp_path, capsys):
    out = tmp_path / "out"
    lock = lock_folder(out)
    try:
        code, sentence = WRITERS[command](data, out), capsys.readouterr().err
    except RunError as error:
        code, sentence = error.exit_code, str(error)
    finally:
        lock.release()
    assert code == 1 and "another process writes to" in sentence
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_file_in_the_place_of_a_lock_is_not_emptied(tmp_path):
    path = tmp_path / ".lock"
    path.write_text(PRECIOUS)
    with pytest.raises(RunError, match="is not a lock of medground"):
        locked(path, "held", "wait")
    assert path.read_text() == PRECIOUS


@pytest.fixture
def checkpoints(tmp_path):
    saved = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        saved.save(step, lambda folder: (folder / "weights").write_text("w"), lambda folder: None)
    return saved


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


TAMPERED = {
    "format as text": lambda stated: {**stated, "format": "9"},
    "format true": lambda stated: {**stated, "format": True},
    "format zero": lambda stated: {**stated, "format": 0},
    "files as a list": lambda stated: {**stated, "files": []},
    "files null": lambda stated: {**stated, "files": None},
    "no files": lambda stated: {**stated, "files": {}},
    "no size": lambda stated: {**stated, "files": {"weights": {"sha256": stated["files"]["weights"]["sha256"]}}},
    "size as text": lambda stated: {**stated, "files": {"weights": {**stated["files"]["weights"], "size": "1"}}},
    "a file outside": lambda stated: {**stated, "files": {**stated["files"], "../weights": stated["files"]["weights"]}},
    "a list": lambda stated: [],
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_checkpoint_with_a_tampered_manifest_is_not_used(how, checkpoints):
    newest = checkpoints.path(2)
    (newest / "manifest.json").write_text(json.dumps(TAMPERED[how](manifest(newest))))
    assert checkpoints.newest() == checkpoints.path(1)


@pytest.mark.parametrize("how", ["a file more", "a link more", "a link instead", "a folder instead", "deep"])
def test_a_checkpoint_holds_the_files_of_its_manifest_and_no_others(how, checkpoints, victim):
    newest = checkpoints.path(2)
    if how == "a file more":
        (newest / "adapter_config.json").write_text("{}")
    elif how == "a link more":
        (newest / "more").symlink_to(victim)
    elif how == "a link instead":
        (newest / "weights").rename(victim / "weights")
        (newest / "weights").symlink_to(victim / "weights")
    elif how == "a folder instead":
        (newest / "weights").unlink()
        (newest / "weights").mkdir()
    else:
        (newest / "manifest.json").write_text("[" * 100_000)
    assert verify(newest) is not None
    assert checkpoints.newest() == checkpoints.path(1)


@pytest.mark.parametrize("name", ["step-00000003.bak", "step-00000002 (copy)", "step-3.zip", "step-00000009"])
def test_a_backup_among_the_checkpoints_is_none_and_stays(name, checkpoints):
    backup = checkpoints.folder / name
    if "." in name or name.endswith("9"):
        backup.write_text("a user's own")
    else:
        shutil.copytree(checkpoints.path(1), backup)
    assert checkpoints.newest() == checkpoints.path(2)
    checkpoints.save(3, lambda folder: (folder / "weights").write_text("w"), lambda folder: None)
    assert checkpoints.steps() == [3, 2]
    assert backup.exists()


def test_a_run_of_which_no_checkpoint_is_whole_is_refused_and_stays(checkpoints):
    for step in (1, 2):
        (checkpoints.path(step) / "weights").write_text("x")
    for _ in range(2):
        with pytest.raises(RunError, match=r"every checkpoint in .* is damaged, the newest, step-00000002: weights is"):
            checkpoints.newest()


LINE = {"condition": "answer", "id": "a"}
BAD_LINES = ["[]", '"text"', "3", json.dumps(LINE), "[" * 100_000]


@pytest.mark.parametrize("number", range(9))
def test_an_evaluation_whose_lines_were_tampered_with_is_refused(number, data, tmp_path):
    evaluate(data, tmp_path / "out")
    path = tmp_path / "out" / "samples.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    (answer,) = line["answers"]
    texts = [
        *BAD_LINES,
        json.dumps({**line, "values": {"iou": "high"}}),
        json.dumps({**line, "answers": [{**answer, "points": [["x", 1]]}]}),
        json.dumps({**line, "answers": [{**answer, "fault": "no such fault"}]}),
        json.dumps({**line, "size": 64, "labels": []}),
    ]
    path.write_text(texts[number] + "\n")
    with pytest.raises(InputError, match=r"samples\.jsonl line 1 is not"):
        evaluate(data, tmp_path / "out")


@pytest.mark.parametrize("name", ["run.json", "inputs.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"identity": 3}', '{"samples": {"a": 1}}', "[" * 100_000])
def test_an_evaluation_whose_record_was_tampered_with_is_refused(name, text, data, tmp_path):
    evaluate(data, tmp_path / "out")
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(RunError, match=f"{name} is damaged"):
        evaluate(data, tmp_path / "out")


@pytest.mark.parametrize(
    "line",
    [*BAD_LINES[:4], '{"id": [], "status": "ok", "key": "k"}', '{"id": "a", "status": "ok", "key": "k", "mask": 3}',
     '{"id": "a", "status": "ok", "key": "k", "usage": {"tokens": "many"}}'],
)  # fmt: skip
def test_a_run_whose_lines_were_tampered_with_is_refused(line, data, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").write_text(f"{line}\n")
    assert run(data, out) == 3
    assert "is not the manifest of a run" in capsys.readouterr().err
    assert (out / "manifest.jsonl").read_text() == f"{line}\n"


@pytest.mark.parametrize("line", ["[]", "3", '{"step": 1}', '{"event": 3}', '{"event": "step", "step": "first"}'])
def test_a_training_run_whose_events_were_tampered_with_is_refused(line, data, tmp_path):
    trained(data, tmp_path / "out")
    with (tmp_path / "out" / "events.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunError, match="holds a line that is no event"):
        read_events(tmp_path / "out")
    (tmp_path / "out" / "run.json").write_text(line)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        read_metadata(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", '{"identity": 3}', '{"identity": "a", "status": "done", "tokens": "many"}'])
def test_a_sweep_whose_trial_was_tampered_with_is_refused(text, data, tmp_path):
    swept(data, tmp_path / "out")
    (tmp_path / "out" / "trials" / "a" / "trial.json").write_text(text)
    with pytest.raises(RunError, match=r"trial\.json is damaged"):
        swept(data, tmp_path / "out")


@pytest.mark.parametrize("line", ["[]", "3", '["key"]', '[["list"], 1]', '{"a": 1}'])
def test_a_cache_passes_over_lines_that_it_did_not_write(line, data, tmp_path):
    from medground.pipeline.cache import StageCache

    whole = medground.evaluate(recipe(data), store=StageCache(tmp_path / "store"))
    for path in (tmp_path / "store").iterdir():
        keys = [json.loads(text)[0] for text in path.read_text().splitlines()]
        torn = {"size": [8, 8], "counts": "1", "score": 1.0, "instances": [], "presence": None}
        broken = [json.dumps([key, torn]) for key in keys]
        path.write_text("\n".join([line, *broken]) + "\n")
    assert medground.evaluate(recipe(data), store=StageCache(tmp_path / "store")).records == whole.records
