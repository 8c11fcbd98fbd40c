"""Every command that is killed, wherever it writes, and is given again ends with the files of one that was not."""

import json
import multiprocessing
import random
import runpy
import shutil
import time
from pathlib import Path

import pytest
from medground_toy import phantoms

CHILD = Path(__file__).with_name("alien") / "train_child.py"


@pytest.fixture(scope="module")
def start():
    """``start(arguments, fault)`` begins a command in a process that can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "medground_qwen.factories"])

    def begin(arguments, fault=None):
        words = [str(argument) for argument in arguments]
        given = {"ARGUMENTS": words, "FAULT": fault}
        child = context.Process(target=runpy.run_path, args=(str(CHILD), given, "__main__"))
        child.start()
        return child

    return begin


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, phantoms.samples(4, seed=1, size=(64, 64), per_image=1))
    return folder


@pytest.fixture(scope="module")
def sources(data, trials, tmp_path_factory):
    """What the commands are given: recipes, and a run that has ended."""
    pytest.importorskip("torch", reason="needs torch")
    from medground.training.run import train

    folder = tmp_path_factory.mktemp("sources")
    measured = {
        "reasoner": "toy",
        "prompt_interface": "bbox_points",
        "segmenter": "ellipse",
        "data": {"path": str(data)},
        "evaluate": {"n_boot": 20, "pictures": 0, "batch_size": 1},
    }
    recipes = {
        "eval": measured,
        "sweep": measured | {"variants": {"a": {}, "b": {"segmenter": "box_fill", "prompt": "box"}}},
        "train": trials("sft", save_every=1, max_steps=3),
    }
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(json.dumps(recipe))
    train(trials("sft", max_steps=1), out=folder / "trained")
    return folder


def arguments(command, sources, data, out, *, again=False):
    resume = ["--resume"] * again
    return {
        "run": ["run", data / "manifest.jsonl", "segmenter=ellipse", "--batch-size", 1, "--out", out],
        "eval": ["eval", sources / "eval.yaml", "--store", out.with_name("store"), "--out", out, *resume],
        "sweep": ["sweep", sources / "sweep.yaml", "--out", out, *resume],
        "train": ["train", sources / "train.yaml", "--out", out, "--resume"],
        "data build": ["data", "build", data, "--out", out, "--reader", "manifest"],
        "export": ["export", sources / "trained", "--to", out],
    }[command]


def result(command, out):
    """What a command leaves that may not differ: bytes, or records without their times."""
    if command == "sweep":
        summary = json.loads((out / "sweep.json").read_text())
        return [summary["rows"], summary["comparisons"]]
    if command == "train":
        lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
        steps = [{**line, "step_time": 0} for line in lines if line["event"] == "step"]
        return [steps, *(path.read_bytes() for path in sorted(out.glob("checkpoints/*/engine.safetensors")))]
    names = {"run": ("manifest.jsonl", "results/*"), "eval": ("samples.jsonl", "metrics.json")}.get(command, ("**/*",))
    files = {path for name in names for path in out.glob(name) if path.is_file()}
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(start, sources, data, tmp_path_factory):
    """``whole(command)``: the result of a command that nothing interrupts."""
    results = {}

    def of(command):
        if command not in results:
            out = tmp_path_factory.mktemp("whole") / "out"
            child = start(arguments(command, sources, data, out))
            child.join(300)
            assert child.exitcode == 0
            results[command] = result(command, out)
        return results[command]

    return of


def resumed(command, start, sources, data, out):
    """Give a command again after a kill; return its result."""
    child = start(
        arguments(command, sources, data, out, again=(out / "run.json").exists() or (out / "trials").exists())
    )
    child.join(300)
    assert child.exitcode == 0
    assert not [path for path in out.parent.rglob(".tmp-*") if path.is_file()]
    return result(command, out)


def killed_and_resumed(command, fault, start, sources, data, tmp_path):
    child = start(arguments(command, sources, data, tmp_path / "out"), fault)
    child.join(300)
    assert child.exitcode == -9
    return resumed(command, start, sources, data, tmp_path / "out")


SOME = [("run", "files.replace:kill:8"), ("eval", "files.append:kill:5"), ("export", "export.mid:kill:1")]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "fault"), SOME)
def test_a_killed_command_that_is_given_again_ends_as_if_nothing_had_happened(
    command, fault, start, sources, data, whole, tmp_path
):
    assert killed_and_resumed(command, fault, start, sources, data, tmp_path) == whole(command)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("out", "store")] == []


ALL = [
    *[("run", f"files.replace:kill:{turn}") for turn in range(1, 17)],
    *[("run", f"files.append:kill:{turn}") for turn in range(1, 5)],
    *[("eval", f"files.replace:kill:{turn}") for turn in range(1, 8)],
    *[("eval", f"files.append:kill:{turn}") for turn in range(1, 9)],
    *[("eval", f"eval.mid:kill:{turn}") for turn in range(1, 5)],
    *[("sweep", f"files.replace:kill:{turn}") for turn in range(1, 19)],
    *[("sweep", f"files.append:kill:{turn}") for turn in range(1, 7)],
    *[("train", f"files.replace:kill:{turn}") for turn in range(1, 13)],
    *[("train", f"files.append:kill:{turn}") for turn in range(1, 7)],
    *[("train", f"{point}:kill:2") for point in ("save.before_rename", "save.after_rename", "save.before_latest")],
    ("export", "export.mid:kill:1"),
]


@pytest.mark.soak
@pytest.mark.parametrize(("command", "fault"), ALL)
def test_commands_killed_wherever_they_write_end_as_if_nothing_had_happened(
    command, fault, start, sources, data, whole, tmp_path
):
    assert killed_and_resumed(command, fault, start, sources, data, tmp_path) == whole(command)


@pytest.mark.soak
@pytest.mark.parametrize(("command", "kills"), [("data build", 10), ("export", 5)])
def test_commands_killed_at_random_times_end_as_if_nothing_had_happened(
    command, kills, start, sources, data, whole, tmp_path
):
    whole(command)
    begun, count, draws = time.perf_counter(), 0, random.Random(0)
    child = start(arguments(command, sources, data, tmp_path / "timed" / "out"))
    child.join(300)
    span = time.perf_counter() - begun
    while count < kills:
        out = tmp_path / str(count) / "out"
        out.parent.mkdir()
        child = start(arguments(command, sources, data, out))
        child.join(draws.uniform(0, span))
        child.kill()
        child.join()
        if child.exitcode == -9 and not (out.exists() and any(out.iterdir())):
            count += 1
            assert resumed(command, start, sources, data, out) == whole(command)
            assert [path.name for path in out.parent.iterdir()] == ["out"]
        shutil.rmtree(out.parent)
