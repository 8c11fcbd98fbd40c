"""`medground fetch` against a hub on this machine: the real client, real files, real hashes."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medground.recipe import resolve
from medground.runs.hub import hub_items, non_commercial, parse_hub_id

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The few requests of the hub's protocol that a download takes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, dict[str, bytes]] = {}
        self.licences: dict[str, str | None] = {}
        self.lies: dict[str, str] = {}
        """Name -> the hash the hub gives out instead of the true one."""
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: object) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/"):
            self.info(path)
            return
        repository, _, rest = path.removeprefix("datasets/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self.server.files.get(repository, {})
        if revision not in ("main", COMMIT) or name not in files:
            self.refuse("EntryNotFound" if repository in self.server.files else "RepoNotFound")
            return
        self.reply(files[name], {"ETag": f'"{self.hash_of(name, files[name])}"', "X-Repo-Commit": COMMIT})

    def info(self, path: str) -> None:
        _, kind, *rest = path.split("/")
        repository, rest = "/".join(rest[:2]), rest[2:]
        if repository not in self.server.files:
            self.refuse("RepoNotFound")
        elif rest not in ([], ["revision", "main"], ["revision", COMMIT]):
            self.refuse("RevisionNotFound")
        else:
            siblings = [
                {
                    "rfilename": name,
                    "size": len(data),
                    "blobId": hashlib.sha1(data).hexdigest(),
                    "lfs": {"sha256": self.hash_of(name, data), "size": len(data), "pointerSize": 130},
                }
                for name, data in self.server.files[repository].items()
            ]
            card = {"license": self.server.licences.get(repository)}
            reply = {"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": card, "kind": kind}
            self.reply(json.dumps(reply).encode(), {"Content-Type": "application/json"})

    def hash_of(self, name: str, data: bytes) -> str:
        return self.server.lies.get(name) or hashlib.sha256(data).hexdigest()

    def reply(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.files["wanglab/MedSAM2"] = {"MedSAM2_latest.pt": b"weights", "README.md": b"# MedSAM2", "other.pt": b"o"}
        server.files["someone/model"] = {
            "config.json": b"{}",
            "model.safetensors": b"tensors",
            "model.bin": b"pickle",
            "photo.png": b"picture",
        }
        server.licences["someone/model"] = "mit"
        server.files["zzzyzh/U-MRG"] = {"train.parquet": b"rows"}
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(hub, tmp_path):
    """Run the command line in a process of its own, with that hub and an empty cache."""

    def run(*arguments: str, endpoint: str = hub.address, answer: str = "") -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, "-m", "medground", "fetch", *arguments]
        return subprocess.run(command, env=environment, input=answer, capture_output=True, text=True, timeout=120)

    return run


MEDSAM2 = ("infer/toy", "segmenter=medsam2")


@pytest.mark.slow
def test_a_segmenter_is_fetched_with_licence_revision_and_hash(hub, run, tmp_path, monkeypatch):
    done = run(*MEDSAM2, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert "segmenter.checkpoint: wanglab/MedSAM2/MedSAM2_latest.pt" in done.stderr
    assert "CC BY-SA 4.0" in done.stderr and COMMIT in done.stderr
    (result,) = json.loads(done.stdout)
    digest = hashlib.sha256(b"weights").hexdigest()
    assert result["sha256"] == {"MedSAM2_latest.pt": digest}
    assert result["commit"] == COMMIT
    assert Path(result["path"]).read_bytes() == b"weights"
    lock = json.loads((tmp_path / "cache" / "medground.lock.json").read_text())
    assert lock["wanglab/MedSAM2/MedSAM2_latest.pt"]["sha256"] == {"MedSAM2_latest.pt": digest}
    # and where it now lies, the segmenter finds it
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    from medground.segmenters.weights import find_weights

    assert find_weights("wanglab/MedSAM2/MedSAM2_latest.pt") == Path(result["path"])
    assert not any("other.pt" in line for line in hub.requests)


@pytest.mark.slow
def test_nothing_is_downloaded_before_the_licence_is_accepted(hub, run, tmp_path):
    done = run(*MEDSAM2, answer="n\n")
    assert done.returncode == 1
    assert "CC BY-SA 4.0" in done.stderr and "nothing was downloaded" in done.stderr
    assert not any("/resolve/" in line for line in hub.requests)
    assert not list(tmp_path.rglob("*.pt"))


QWEN_3B = ("infer/toy", "reasoner={name: qwen2_5_vl, checkpoint: Qwen/Qwen2.5-VL-3B-Instruct}")


@pytest.mark.slow
def test_commercial_refuses_a_research_licence_before_anything_is_downloaded(hub, run):
    hub.files["Qwen/Qwen2.5-VL-3B-Instruct"] = {"model.safetensors": b"tensors"}
    hub.licences["Qwen/Qwen2.5-VL-3B-Instruct"] = "apache-2.0"  # what the plugin declares outranks it
    done = run(*QWEN_3B, "--commercial", "--yes")
    assert done.returncode == 1
    assert "licence  Qwen Research License, non-commercial" in done.stderr
    assert (
        "error: reasoner.checkpoint: Qwen/Qwen2.5-VL-3B-Instruct may not be used commercially: Qwen Research License\n"
        " hint: write reasoner.checkpoint=Qwen/Qwen2.5-VL-7B-Instruct\n"
    ) in done.stderr
    assert not any("/resolve/" in line for line in hub.requests)
    assert run(*QWEN_3B, "--yes").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("licence", "message"),
    [
        (None, "has no known licence, so nothing allows commercial use"),
        ("cc-by-nc-4.0", "may not be used commercially: cc-by-nc-4.0"),
        ("other", "has terms that medground does not know to allow commercial use: other"),
        ("mit", None),
    ],
)
def test_commercial_goes_by_the_hub_where_no_plugin_declares_terms(licence, message, hub, run):
    hub.licences["someone/model"] = licence
    done = run("infer/toy", "segmenter={name: sam2, checkpoint: someone/model}", "--commercial", "--yes")
    assert done.returncode == (1 if message else 0), done.stderr
    assert (message or "is at") in done.stderr


@pytest.mark.slow
def test_commercial_refuses_a_dataset_without_a_licence(hub, run):
    done = run("infer/toy", "data.path=zzzyzh/U-MRG", "--commercial", "--yes")
    assert done.returncode == 1
    assert "data.path: zzzyzh/U-MRG has no known licence" in done.stderr


@pytest.mark.slow
def test_terms_that_were_fetched_are_known_afterwards(hub, run, tmp_path, monkeypatch):
    recipe = resolve("infer/toy", "segmenter={name: sam2, checkpoint: someone/model}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert [problem.key for problem in non_commercial(recipe)] == ["segmenter.checkpoint"]
    assert run("infer/toy", "segmenter={name: sam2, checkpoint: someone/model}", "--yes").returncode == 0
    assert non_commercial(recipe) == []


@pytest.mark.slow
def test_a_folder_takes_what_a_model_needs_and_the_hubs_own_licence(hub, run, tmp_path, monkeypatch):
    done = run("infer/toy", "segmenter={name: sam2, checkpoint: someone/model}", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert "licence  mit" in done.stderr
    (result,) = json.loads(done.stdout)
    assert sorted(result["sha256"]) == ["config.json", "model.safetensors"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    from medground.segmenters.weights import find_weights

    assert find_weights("someone/model") == Path(result["path"])


@pytest.mark.slow
def test_a_dataset_without_a_stated_licence_is_shown_as_unknown(hub, run):
    done = run("infer/toy", "data.path=zzzyzh/U-MRG", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert "UNKNOWN" in done.stderr and "U-MRG" in done.stderr
    assert json.loads(done.stdout)[0]["licence"] is None


@pytest.mark.slow
@pytest.mark.parametrize("which", ["the hub's", "the lock's"])
def test_a_file_with_another_hash_is_refused_and_removed(which, hub, run, tmp_path):
    if which == "the hub's":
        hub.lies["MedSAM2_latest.pt"] = "0" * 64
    else:
        assert run(*MEDSAM2, "--yes").returncode == 0
        for path in (tmp_path / "cache").rglob("MedSAM2_latest.pt"):
            path.resolve().unlink()
            path.unlink()
        hub.files["wanglab/MedSAM2"]["MedSAM2_latest.pt"] = b"changed under the same commit"
    done = run(*MEDSAM2, "--yes", "--json")
    assert done.returncode == 1
    assert "expected" in done.stderr and "removed" in done.stderr
    assert not done.stdout
    assert not list((tmp_path / "cache").rglob("MedSAM2_latest.pt"))


@pytest.mark.slow
def test_without_a_network_it_is_one_sentence(run):
    done = run(*MEDSAM2, "--yes", endpoint="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "does not answer for wanglab/MedSAM2/MedSAM2_latest.pt" in done.stderr
    assert "give its path as segmenter.checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("no/body", "the hub has no model no/body"),
        ("someone/model@v9", "someone/model has no revision v9"),
        ("someone/model/none.pt", "someone/model has no file none.pt"),
    ],
)
def test_an_item_that_the_hub_does_not_have_is_refused(checkpoint, message, run):
    done = run("infer/toy", f"segmenter={{name: sam2, checkpoint: {checkpoint}}}", "--yes")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_recipe_without_weights_needs_nothing(hub, run):
    done = run("infer/toy", "--json")
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert not hub.requests


def test_a_checkpoint_on_disk_is_not_downloaded(tmp_path):
    weights = tmp_path / "w.pt"
    weights.touch()
    assert hub_items(resolve("infer/toy", f"segmenter={{name: sam2, checkpoint: {weights}}}")) == []


def test_a_revision_is_part_of_the_id_or_an_argument_of_its_own():
    pinned = parse_hub_id("owner/name@abc", "reasoner.checkpoint")
    assert pinned is not None and (pinned.revision, pinned.id) == ("abc", "owner/name@abc")
    assert parse_hub_id("owner/name", "reasoner.checkpoint", revision="abc") == pinned


@pytest.mark.parametrize("name", [None, 3, "toy", "/abs/olute", "../up/there", "https://x.org/a", "~/w.pt"])
def test_a_name_that_is_no_hub_id_is_not_downloaded(name):
    assert parse_hub_id(name, "segmenter.checkpoint") is None
