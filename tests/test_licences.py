"""Terms of weights: what their names mean, and `recipe check --commercial`, which asks no network."""

import json

import pytest

from medground.cli import main
from medground.licences import Published, Terms, commercial_remedy, stated
from medground.recipe import checkpoints, resolve
from medground.registry import components, factory


@pytest.mark.parametrize(
    ("licence", "commercial"),
    [
        ("Apache-2.0", True), ("apache-2.0", True), ("MIT", True), ("CC BY-SA 4.0", True), ("cc-by-4.0", True),
        ("cc-by-nc-4.0", False), ("CC BY-NC-SA 4.0", False), ("qwen-research", False),
        ("other", None), ("gemma", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_a_licence_is_known_by_its_name(licence, commercial):
    terms = stated(licence)
    assert terms.commercial is commercial
    assert (terms.refusal is None) == (commercial is True)


def test_terms_in_one_line():
    assert str(stated("MIT", "read the card")) == "MIT; read the card"
    assert str(stated(None)) == "UNKNOWN: none is stated, ask the authors"
    assert str(stated("other")) == "other, commercial use unknown"
    assert str(Terms(licence="Mine", commercial=False)) == "Mine, non-commercial"


def test_the_remedy_names_the_first_weights_that_may_be_used():
    published = (Published("a/research", stated("CC BY-NC 4.0")), Published("a/free", stated("MIT")))
    assert commercial_remedy("segmenter.checkpoint", published) == "write segmenter.checkpoint=a/free"
    assert commercial_remedy("segmenter.checkpoint", published[:1]).startswith("ask its authors")


def test_every_built_in_that_names_weights_states_their_terms():
    published = [
        entry
        for component in components()
        if component.kind != "command"
        for entry in getattr(factory(component.kind, component.name), "published", ())
    ]
    assert len(published) > 12
    assert [entry.id for entry in published if not entry.terms.licence and not entry.terms.note] == []


def test_weights_that_must_be_named_have_no_default():
    recipe = resolve("infer/toy", "reasoner=qwen2_5_vl")
    assert list(checkpoints(recipe, "reasoner")) == []
    assert [named.checkpoint for named in checkpoints(resolve("infer/toy", "segmenter=sam2"), "segmenter")] == [
        "facebook/sam2.1-hiera-large"
    ]


QWEN_3B = "reasoner={name: qwen2_5_vl, checkpoint: Qwen/Qwen2.5-VL-3B-Instruct}"


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        ([], None, None),
        (["segmenter=medsam2"], None, None),
        (["segmenter={name: sam2, checkpoint: wanglab/MedSAM2/MedSAM2_latest.pt}"], None, None),
        (["segmenter=toy_sam"], None, None),
        (
            [QWEN_3B],
            "reasoner.checkpoint: Qwen/Qwen2.5-VL-3B-Instruct may not be used commercially: Qwen Research License",
            "write reasoner.checkpoint=Qwen/Qwen2.5-VL-7B-Instruct",
        ),
        (
            ["segmenter=sammed2d"],
            "segmenter.checkpoint: schengal1/SAM-Med2D_model/sam-med2d_b.pth has no known licence",
            "ask its authors, or name other weights",
        ),
        (
            ["segmenter={name: sam, checkpoint: mine.pth}"],
            "segmenter.checkpoint: mine.pth has no known licence",
            "write segmenter.checkpoint=facebook/sam-vit-base",
        ),
    ],
)
def test_recipe_check_refuses_what_may_not_be_used_commercially(overrides, message, hint, capsys):
    with pytest.raises(SystemExit) as left:
        main(["recipe", "check", "infer/toy", *overrides, "--commercial", "--json"])
    problems = json.loads(capsys.readouterr().out)["problems"]
    if message is None:
        assert (left.value.code or 0, problems) == (0, [])
        return
    (problem,) = problems
    assert left.value.code == 2
    assert problem["message"].startswith(message) and problem["hint"].startswith(hint)
    with pytest.raises(SystemExit) as left:
        main(["recipe", "check", "infer/toy", *overrides])
    assert not left.value.code, "without --commercial it is no problem"
