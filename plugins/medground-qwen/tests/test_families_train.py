"""Every family trains by SFT and GRPO, its weights or an adapter, and plain transformers or peft load what is exported."""

import math

import pytest
from medground_toy import phantoms

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("peft", reason="needs peft")

import family_checks  # noqa: E402
import other_families  # noqa: E402
from family_checks import BATCH  # noqa: E402
from tested_families import NAMES  # noqa: E402

import medground  # noqa: E402
from medground.errors import RecipeError  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(text) for text in other_families.WARNINGS]
UNTAUGHT = {"qwen4_exp": ("indexer", "ple.norm_conv"), "llava_onevision": ("vision_tower.post_layernorm",)}
"""Parameters without a gradient: an indexer chooses tokens, the layer behind a norm starts at 0, and features leave the tower
before its last norm."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    phantoms.write(folder, phantoms.samples(4, seed=0, size=(48, 48)))
    (folder / "template.txt").write_text("{Question}", encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2], ids=["weights", "lora"])
@pytest.mark.parametrize("method", ["sft", "grpo"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_the_language_model_alone_and_its_export_loads(families, data, name, method, rank, tmp_path):
    """Not the vision tower, nor what joins it to the language model; with an adapter none of the weights."""
    start = families(name)
    run, step = family_checks.train(name, start, data, tmp_path / "run", method=method, rank=rank)
    assert math.isfinite(step["loss"]) and step["grad_norm"] > 0 and run.skipped == 0
    assert method == "sft" or step["images_trained"] == 2, "each image once, whatever the micro-batches"
    before = other_families.reasoner(name, start, **({"lora_rank": rank} if rank else {})).model
    moved, _ = family_checks.changed(before, medground.load(run.folder).reasoner.model)
    language = [key for key, _ in before.named_parameters() if "language_model" in key or "text_model" in key]
    wanted = {key for key in language if "lora_" in key} if rank else {*language, "lm_head.weight"} & all_of(before)
    still = {key for key in wanted if any(part in key for part in UNTAUGHT.get(name, ()))}
    assert wanted - still <= moved <= wanted
    if method == "sft":
        for adapter in ("merge", "separate") if rank else ("merge",):
            gap = family_checks.exported(run.folder, start, tmp_path / adapter, adapter)
            assert gap <= 1e-5, f"{adapter}: {gap}"


def all_of(model):
    return {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.lane
def test_rows_of_different_queries_equal_each_alone(families, name):
    """Different queries are computed together, and every parameter has a gradient, those of the vision tower too."""
    reasoner = other_families.reasoner(name, families(name), train_vision=True)
    targets = [[5, 9, 30], [7]]
    together, _ = reasoner.policy(reasoner.rows(BATCH, targets))
    for row, (messages, ids) in enumerate(zip(BATCH, targets, strict=True)):
        alone, _ = reasoner.policy(reasoner.group(messages, [ids]))
        torch.testing.assert_close(together[row, : len(ids)], alone[0], atol=1e-5, rtol=0)
    together.sum().backward()
    without = {key for key, parameter in reasoner.model.named_parameters() if parameter.grad is None}
    assert all(any(part in key for part in UNTAUGHT.get(name, ())) for key in without), without
    if not reasoner.family.packs:
        with pytest.raises(RecipeError, match="cannot keep packed samples apart"):
            reasoner.rows(BATCH, targets, packed=True)
