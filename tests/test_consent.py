"""Only the user lets images, questions and keys leave this machine: a recipe or a run's folder never does."""

import subprocess
import sys

import pytest

from medground.cli import main
from medground.errors import RecipeError
from medground.recipe import find_problems, resolve
from medground.runs.folder import write_recipe
from medground.training import launcher

REMOTE, KEY = "base_url: https://gpu7/v1", "api_key_env: OPENAI_API_KEY"
TYPED = "reasoner.allow_upload=true"


@pytest.fixture(autouse=True)
def _no_consent(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDGROUND_ALLOW_UPLOAD", raising=False)
    monkeypatch.chdir(tmp_path)


def recipe(tmp_path, *lines, component="reasoner: {name: openai, model: m"):
    """Write a recipe file with some words of its reasoner."""
    path = tmp_path / "foreign.yaml"
    path.write_text(f"{', '.join([component, *lines])}}}\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("lines", "typed", "says"),
    [
        ([REMOTE, "allow_upload: true"], [], "allows uploads to gpu7"),
        ([REMOTE, "allow_upload: yes"], [], "allows uploads to gpu7"),
        ([REMOTE, "allow_upload: true"], ["reasoner.model=other"], "allows uploads to gpu7"),
        ([REMOTE, "allow_upload: true", KEY], [TYPED], "names the variable whose key gpu7 gets"),
        ([REMOTE.replace("https", "http")], [TYPED], "sends images and questions to gpu7 unencrypted"),
        (["allow_upload: true"], ["reasoner.base_url=https://gpu7/v1"], "allows uploads to gpu7"),
    ],
)
def test_what_a_recipe_file_grants_is_refused(tmp_path, monkeypatch, lines, typed, says):
    file = recipe(tmp_path, *lines)
    with pytest.raises(RecipeError, match=says) as caught:
        resolve(file, *typed).component("reasoner")
    assert f"{file}:1: the recipe" in caught.value.message
    assert "export MEDGROUND_ALLOW_UPLOAD=gpu7" in caught.value.hint
    assert any(says in problem.message for problem in find_problems(resolve(file, *typed))), "recipe check says it, too"
    monkeypatch.setenv("MEDGROUND_ALLOW_UPLOAD", "gpu70, evil.gpu7")
    with pytest.raises(RecipeError, match=says):
        resolve(file, *typed).component("reasoner")
    monkeypatch.setenv("MEDGROUND_ALLOW_UPLOAD", "localhost, GPU7")
    assert resolve(file, *typed).component("reasoner").name == "openai"


def test_a_variant_and_an_extended_file_grant_no_more_than_a_file(tmp_path):
    file = recipe(tmp_path, REMOTE)
    more = tmp_path / "more.yaml"
    more.write_text("extends: foreign\nvariants: {out: {reasoner.allow_upload: true}}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"more\.yaml:2: the recipe allows uploads"):
        resolve(str(more), variant="out").component("reasoner")
    recipe(tmp_path, REMOTE, "allow_upload: true")
    more.write_text("extends: foreign\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"foreign\.yaml:1: the recipe allows uploads"):
        resolve(str(more)).component("reasoner")
    assert file


@pytest.mark.parametrize(
    "typed",
    [
        [TYPED],
        ["reasoner.allow_upload=true", "reasoner.api_key_env=OPENAI_API_KEY", "reasoner.base_url=http://gpu7/v1"],
        ['reasoner={"name": "openai", "allow_upload": true, "base_url": "http://gpu7"}'],
    ],
)
def test_what_the_user_types_counts(tmp_path, typed):
    assert resolve(recipe(tmp_path, REMOTE), *typed).component("reasoner").arguments["allow_upload"] is True


def test_what_python_gives_counts():
    given = {"name": "openai", "model": "m", "base_url": "http://gpu7/v1", "allow_upload": True}
    for called in (resolve({"reasoner": given}), resolve("infer/toy", values={"reasoner": given})):
        assert called.component("reasoner").arguments["allow_upload"] is True


def test_consent_is_asked_again_when_the_folder_of_a_run_is_used(tmp_path, monkeypatch):
    write_recipe(resolve(recipe(tmp_path, REMOTE), TYPED), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+: the recipe allows uploads"):
        resolve(str(tmp_path / "run")).component("reasoner")
    assert resolve(str(tmp_path / "run"), TYPED).component("reasoner").arguments["allow_upload"] is True
    monkeypatch.setenv("MEDGROUND_ALLOW_UPLOAD", "gpu7")
    assert resolve(str(tmp_path / "run")).component("reasoner").name == "openai"


def test_a_file_grants_nothing_to_a_component_that_knows_its_own_address(tmp_path):
    file = recipe(tmp_path, "allow_upload: true")
    assert resolve(file).component("reasoner").arguments["allow_upload"] is False
    terms = recipe(tmp_path, "allow_upload: true", component="rewards: {judge: {name: judge")
    (tmp_path / "foreign.yaml").write_text((tmp_path / "foreign.yaml").read_text().strip() + "}\n", encoding="utf-8")
    assert resolve(terms).terms["judge"].arguments["allow_upload"] is False


def test_rollouts_and_trackers_grant_themselves_nothing_either(tmp_path):
    rollout = recipe(tmp_path, "base_url: https://gpu7", "allow_upload: true", component="rollout: {name: vllm_server")
    with pytest.raises(RecipeError, match=r"add rollout\.allow_upload=true to the command"):
        resolve(rollout).component("rollout")
    (tmp_path / "foreign.yaml").write_text(
        "trackers: [{name: hosted, base_url: 'https://gpu7', api_key_env: OPENAI_API_KEY}]\n", encoding="utf-8"
    )
    with pytest.raises(RecipeError, match="names the variable whose key gpu7 gets"):
        resolve(rollout).trackers  # noqa: B018


def test_a_tracker_sends_numbers_and_not_images(tmp_path):
    (tmp_path / "foreign.yaml").write_text("trackers: [{name: mlflow, base_url: 'http://gpu7'}]\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="the recipe sends the run's numbers to gpu7 unencrypted"):
        resolve(str(tmp_path / "foreign.yaml")).trackers  # noqa: B018


def test_this_machine_needs_no_consent(tmp_path):
    file = recipe(tmp_path, "base_url: http://127.0.0.1:8000/v1", KEY)
    assert resolve(file).component("reasoner").arguments["api_key_env"] == "OPENAI_API_KEY"


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "HOME", "OPENAI_API_KEY_2"])
def test_a_command_with_a_foreign_recipe_reads_no_other_secret(variable, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(variable, "s3cr3t-AKIA")
    monkeypatch.setenv("MEDGROUND_ALLOW_UPLOAD", "gpu7")
    (tmp_path / "scan.png").write_bytes(b"")
    file = recipe(tmp_path, REMOTE, f"api_key_env: {variable}", "frame: unit")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "frames", file, "prompt_interface=bbox", "segmenter=ellipse"])
    stated = capsys.readouterr()
    assert ended.value.code == 2 and "starts with MEDGROUND_" in stated.err
    assert "s3cr3t" not in stated.out + stated.err


@pytest.mark.slow
def test_a_child_process_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    for variable in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    for module in ("click", "html", "medground"):
        (tmp_path / f"{module}.py").write_text("open('imported', 'w')\n", encoding="utf-8")
    assert launcher.start(["recipe", "list", "--json"], 1) == 0
    assert not (tmp_path / "imported").exists()
    subprocess.run([sys.executable, "-m", "medground", "--version"], capture_output=True, check=False)
    assert (tmp_path / "imported").exists(), "without -P they are imported"
