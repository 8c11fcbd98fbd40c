"""Each client reads back what its tracker logged, also after an interruption; nothing needs a network."""

import importlib
import json
import socket
import struct

import pytest

import medground
from medground.errors import MedgroundError, RecipeError, RunError

pytestmark = pytest.mark.filterwarnings("ignore")  # the clients' own

CLIENTS = {"mlflow": "mlflow", "trackio": "trackio", "wandb": "wandb"}
METRICS = {"reward": 0.25, "reward/box/mean": 0.5, "loss": float("nan")}


def client(name):
    return pytest.importorskip(name, reason=f"needs {name}: make test-trackers")


def read_mlflow(run):
    """Return metric -> [(step, value), ...] of every run."""
    from mlflow import MlflowClient

    there = MlflowClient(tracking_uri=(run / "mlruns").as_uri())
    (experiment,) = [item for item in there.search_experiments() if item.name == "medground"]
    (logged,) = there.search_runs([experiment.experiment_id])
    return {
        name.replace(".", "/"): [(item.step, item.value) for item in there.get_metric_history(logged.info.run_id, name)]
        for name in logged.data.metrics
    }


def read_trackio(run):
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("medground", (run / "trackio.name").read_text())
    names = {name for row in rows for name in row} - {"step", "timestamp"}
    return {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}


def wandb_records(run):
    """Yield what ``wandb sync`` sends: a log of LevelDB, whose records are messages of protobuf."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its other process has written everything then
    for file in sorted(run.rglob("*.wandb")):
        data, at, whole = file.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or the last piece
                record = Record()
                record.ParseFromString(whole)
                yield record
                whole = b""


def read_wandb(run):
    values = {}
    for record in wandb_records(run):
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name in row.keys() - {"step", "_step", "_runtime", "_timestamp"}:
            values.setdefault(name, []).append((row["step"], row[name]))
    return values


READ = {"mlflow": read_mlflow, "trackio": read_trackio, "wandb": read_wandb}


def tracker(name, run, step, **arguments):
    run.mkdir(exist_ok=True)
    built = medground.build("tracker", name, **arguments)
    built.begin(run, step)
    return built


@pytest.mark.parametrize("name", CLIENTS)
def test_logged_numbers_are_read_back(name, tmp_path, capfd):
    client(name)
    built = tracker(name, tmp_path / "run", 0)
    for step in (1, 2, 3):
        built.log(step, METRICS)
    built.close()
    assert READ[name](tmp_path / "run") == {
        "reward": [(1, 0.25), (2, 0.25), (3, 0.25)],
        "reward/box/mean": [(1, 0.5), (2, 0.5), (3, 0.5)],
    }
    assert capfd.readouterr().out == "", "stdout is for results"


@pytest.mark.parametrize("name", CLIENTS)
def test_after_an_interruption_one_run_goes_on(name, tmp_path):
    """The steps that are done again stand in it twice, in the order in which they were done."""
    client(name)
    lost = tracker(name, tmp_path / "run", 0)
    for step in (1, 2, 3):
        lost.log(step, {"reward": 0.25})
    lost.close()
    resumed = tracker(name, tmp_path / "run", 2)
    for step in (3, 4):
        resumed.log(step, {"reward": 0.75})
    resumed.close()
    rewards = READ[name](tmp_path / "run")["reward"]
    assert sorted(rewards) == [(1, 0.25), (2, 0.25), (3, 0.25), (3, 0.75), (4, 0.75)]
    assert rewards.index((3, 0.25)) < rewards.index((3, 0.75))


@pytest.mark.parametrize("name", CLIENTS)
def test_runs_of_one_folder_name_stay_apart(name, tmp_path):
    client(name)
    for parent, value in (("a", 0.25), ("b", 0.75)):
        (tmp_path / parent).mkdir()
        built = tracker(name, tmp_path / parent / "run", 0)
        built.log(1, {"reward": value})
        built.close()
    assert READ[name](tmp_path / "a" / "run")["reward"] == [(1, 0.25)]
    assert READ[name](tmp_path / "b" / "run")["reward"] == [(1, 0.75)]


@pytest.mark.parametrize("name", CLIENTS)
def test_numbers_go_to_another_machine_only_with_consent(name, monkeypatch):
    client(name)
    monkeypatch.delenv("MEDGROUND_ALLOW_UPLOAD", raising=False)
    with pytest.raises(RecipeError, match="the run's numbers would be sent there") as caught:
        medground.build("tracker", name, base_url="https://tracking.example")
    assert caught.value.hint.endswith("export MEDGROUND_ALLOW_UPLOAD=tracking.example")
    assert medground.build("tracker", name, base_url="https://tracking.example", allow_upload=True)
    monkeypatch.setenv("MEDGROUND_ALLOW_UPLOAD", "tracking.example")
    assert medground.build("tracker", name, base_url="https://tracking.example")


@pytest.mark.parametrize("name", CLIENTS)
def test_a_server_that_cannot_be_used_is_one_sentence(name, tmp_path, monkeypatch):
    """MLflow's is not there; Trackio has no token and Weights & Biases no key, which each says before it connects."""
    client(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("TRACKIO_WRITE_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with socket.socket() as taken:  # bound, never listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RunError, match=f"tracker {name} cannot start") as caught:
            tracker(name, tmp_path / "run", 0, base_url=url)
    assert "\n" not in str(caught.value) and "base_url" in caught.value.hint


def test_a_server_that_fails_later_does_not_end_the_run(tmp_path, caplog):
    """The numbers are in events.jsonl too, so the tracker warns once and stops."""
    exceptions = importlib.import_module(f"{client('mlflow').__name__}.exceptions")
    built = tracker("mlflow", tmp_path / "run", 0)
    built.log(1, {"reward": 0.25})

    class Gone:
        def log_batch(self, *_, **__):
            raise exceptions.MlflowException("the server is gone\nand more")

    built._client = Gone()
    built.log(2, {"reward": 0.5})
    built.log(3, {"reward": 0.75})
    built.close()
    (line,) = [record.getMessage() for record in caplog.records if "tracker mlflow" in record.getMessage()]
    assert line.endswith("stops at step 2, later numbers are in events.jsonl alone: the server is gone")
    assert read_mlflow(tmp_path / "run")["reward"] == [(1, 0.25)]


@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_a_variable_does_not_send_the_numbers_elsewhere(variable, tmp_path, monkeypatch):
    client("trackio")
    monkeypatch.setenv(variable, "https://space.example")
    with pytest.raises(RunError, match=f"{variable} would send") as caught:
        tracker("trackio", tmp_path / "run", 0)
    assert caught.value.hint.startswith(f"unset {variable}")


def test_wandb_records_nothing_about_the_machine(tmp_path):
    client("wandb")
    tracker("wandb", tmp_path / "run", 0).close()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in files if path.parent.name in ("files", "code")]
    records = list(wandb_records(tmp_path / "run"))
    assert [record.run.host for record in records if record.HasField("run")] == [""]
    assert not [record for record in records if record.HasField("environment")]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_nothing_is_written_outside_the_run(name, tmp_path):
    client(name)
    with pytest.raises(RecipeError, match="outside the run"):
        tracker(name, tmp_path / "run", 0, folder="../elsewhere")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", CLIENTS)
def test_a_tracker_without_its_client_names_its_extra(name, monkeypatch):
    """An entry of None in ``sys.modules`` is what an import of a missing module meets."""
    monkeypatch.setitem(importlib.import_module("sys").modules, name, None)
    with pytest.raises(MedgroundError) as caught:
        medground.build("tracker", name)
    assert caught.value.hint == f"pip install 'medground[trackers-{name}]'"


@pytest.mark.parametrize("name", CLIENTS)
def test_a_tracker_that_never_began_can_be_closed(name):
    client(name)
    medground.build("tracker", name).close()
