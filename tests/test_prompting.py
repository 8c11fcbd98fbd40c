"""From a recipe's list of prompt kinds to masks, pictures, counts and files: text, exemplars, and what is not present."""

import json

import numpy as np
import pytest
from PIL import Image

import medground
from medground.cli import main
from medground.errors import RecipeError
from medground.evaluation.metrics import measure
from medground.geometry import Box
from medground.images.overlay import concepts, draw_regions
from medground.types import (
    Completion,
    Fault,
    Grounding,
    Mask,
    Query,
    Region,
    Rollout,
    Sample,
    SpatialPrompt,
    Target,
)

BOX = Box(1, 1, 3, 3)


def spots(*columns: int, size=(40, 60)):
    """Return grey with bright squares of 8 x 8 px, the first row at 10, and a dark one at (28, 4)."""
    image = np.full((*size, 3), 128, np.uint8)
    for column in columns:
        image[10:18, column : column + 8] = 250
    image[28:36, 4:12] = 5
    return image


class Saying:
    """A reasoner that gives one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def generate(self, batch, sampling):
        frame = medground.Frame("pixel", (40, 60))
        return [[Completion(text=self.text, frame=frame)] * sampling.num_generations for _ in batch]

    def frame(self, size):
        return medground.Frame("pixel", size)


def answered(question: str, regions: list[dict], **recipe):
    """Return the result of a pipeline that is told its answer."""
    words = {
        "prompt_interface": {"name": "regions", "points": False, "label": True, "think": False},
        "segmenter": "tones",
        **recipe,
    }
    reasoner = Saying(f"<answer>{json.dumps(regions)}</answer>")
    return medground.load(words, reasoner=reasoner)(Query(image=spots(8, 40), question=question, id="one"))


LEFT = [6, 8, 20, 20]


def test_the_text_is_the_regions_label_and_a_box_beside_it_bounds_it():
    whole = answered("Where?", [{"bbox": LEFT, "label": "bright spot"}], prompt="text")
    assert [int(one.data.sum()) for one in whole.mask.instances] == [96, 96]
    assert whole.prompts == (SpatialPrompt(text="bright spot"),)
    inside = answered("Where?", [{"bbox": LEFT, "label": "bright spot"}], prompt=["text", "box"])
    assert [int(one.data.sum()) for one in inside.mask.instances] == [96]


def test_the_text_is_the_question_where_the_recipe_says_so():
    regions = [{"bbox": LEFT, "label": "bright spot"}]
    dark = answered("Which dark spot?", regions, prompt="text", text_from="question")
    assert dark.prompts == (SpatialPrompt(text="Which dark spot?"),)
    assert int(dark.mask.data.sum()) == 96 and dark.mask.data[30, 8]


def test_exemplars_are_the_regions_box():
    alike = answered("Where?", [{"bbox": [8, 10, 16, 18], "label": ""}], prompt="exemplars")
    assert alike.prompts[0].kinds == {"exemplars"} and len(alike.mask.instances) == 2


def test_what_is_not_present_is_an_answer_and_not_a_fault():
    nowhere = answered("Where?", [{"bbox": LEFT, "label": "purple spot"}], prompt="text")
    assert nowhere.fault is None and nowhere.mask.absent and not nowhere.mask.data.any()
    figures = nowhere.to_dict()["regions"][0]
    assert (figures["text"], figures["prompt_kinds"]) == ("purple spot", ["text"])
    nothing = {"area": 0, "score": 0.0, "measures": None, "presence": 0.0, "absent": True, "instances": []}
    assert figures["mask"] == nothing


def test_a_region_that_lacks_a_chosen_text_is_a_fault_of_its_own():
    regions = [{"bbox": LEFT, "label": "bright spot"}, {"bbox": LEFT, "label": " "}]
    result = answered("Where?", regions, prompt=["box", "text"])
    assert result.fault is Fault.NO_PROMPT and result.fault.of_model
    assert result.cause == "region 2 lacks what the recipe prompts the segmenter with"
    assert result.regions[0].mask is not None and result.regions[1].mask is None
    assert [region["prompt_kinds"] for region in result.to_dict()["regions"]] == [["box", "text"], []]


def test_json_holds_the_instances_with_boxes_and_run_lengths():
    result = answered("Where?", [{"bbox": LEFT, "label": "bright spot"}], prompt="text")
    mask = result.to_dict(run_lengths=True)["regions"][0]["mask"]
    assert [one["box"] for one in mask["instances"]] == [[7, 9, 17, 19], [39, 9, 49, 19]]
    assert all(set(one["rle"]) == {"size", "counts"} for one in mask["instances"])
    assert mask["presence"] == 1.0 and mask["absent"] is False


@pytest.mark.parametrize(
    ("kinds", "region", "prompt"),
    [
        (["box", "text"], Region(box=BOX, label="cyst"), SpatialPrompt(box=BOX, text="cyst")),
        (["box", "text"], Region(label="cyst"), None),
        (["box", "text"], Region(box=BOX), None),
        (["text"], Region(box=BOX, label=" cyst "), SpatialPrompt(text="cyst")),
        (["exemplars", "text"], Region(box=BOX, label="cyst"), SpatialPrompt(exemplars=(BOX,), text="cyst")),
        (["exemplars"], Region(label="cyst"), None),
        (["box", "points"], Region(box=BOX, label="cyst"), SpatialPrompt(box=BOX)),
    ],
)
def test_a_region_is_prompted_if_it_has_what_the_chosen_kinds_need(kinds, region, prompt):
    assert region.prompt(*kinds) == prompt


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="bxo"):
        Region(box=BOX).prompt("bxo")
    with pytest.raises(RecipeError, match="one or more of box, points, text, exemplars: 'bxo'"):
        medground.Pipeline(prompt="bxo")
    with pytest.raises(RecipeError, match="text_from must be label or question: 'title'"):
        medground.Pipeline(prompt="text", text_from="title")


def test_a_pipeline_of_objects_refuses_words_for_a_segmenter_that_cannot_read_them():
    parts = medground.build("prompt_interface", "bbox"), medground.build("segmenter", "ellipse")
    for allowed in (False, True):
        with pytest.raises(RecipeError, match="segmenter 'Ellipse' cannot read text"):
            medground.Pipeline(None, *parts, prompt=["text", "box"], text_from="question", allow_untrained=allowed)


def test_overlays_say_the_text_and_draw_every_instance():
    regions = [{"bbox": LEFT, "label": "bright spot"}]
    shown = answered("Where?", regions, prompt="text")
    texts = concepts(shown.regions, [prompt.text for prompt in shown.prompts])
    assert texts == "“bright spot”: 2 instances, presence 1.00"
    assert concepts([Region(box=BOX, label="cyst", mask=Mask(data=np.ones((4, 5), bool)))]) == ""
    nowhere = answered("Where?", [{"bbox": LEFT, "label": "purple spot"}], prompt="text")
    assert concepts(nowhere.regions) == "“purple spot”: not present (presence 0.00)"
    assert shown.overlay().height > draw_regions(shown.query.image, shown.regions, legend=False).height


def test_an_evaluation_counts_what_is_not_present_apart_from_failures_and_empty_masks(tmp_path):
    truth = np.zeros((40, 60), bool)
    truth[10:18, 8:16] = True
    target = Target(regions=(Region(box=Box(8, 10, 16, 18), label="bright spot", mask=Mask(data=truth)),))
    unnamed = Target(regions=(Region(box=Box(8, 10, 16, 18), mask=Mask(data=truth)),))
    samples = [
        Sample(query=Query(image=spots(8), question="Which bright spot?", id="there"), target=target),
        Sample(query=Query(image=spots(), question="Which bright spot?", id="gone"), target=target),
        Sample(query=Query(image=spots(), question="Which purple spot?", id="unknown"), target=unnamed),
    ]
    reasoner = Saying('<answer>[{"bbox": [6, 8, 20, 20], "label": ""}]</answer>')
    words = {
        "prompt_interface": {"name": "regions", "points": False, "think": False},
        "segmenter": "tones",
        "prompt": "text",
        "text_from": "question",
        "evaluate": {"conditions": ["answer", "perfect_segmenter", "oracle_text", "oracle_exemplars"]},
    }
    result = medground.evaluate(medground.load(words, reasoner=reasoner), data=samples, out=tmp_path / "eval")
    answer = result.summary.conditions["answer"]
    assert (answer.ok, answer.masks, answer.absent_masks, answer.empty_masks) == (3, 3, 2, 0)
    assert answer.failures == {} and answer.metrics["dice_joint"].mean == pytest.approx(0.8 / 3)
    assert result.mean("dice_joint", "perfect_segmenter") == 1.0
    assert result.mean("dice_joint", "oracle_text") == pytest.approx(0.8 / 3)
    assert result.mean("dice_joint", "oracle_exemplars") == pytest.approx(0.8 / 3)
    assert "iou" not in result.summary.conditions["oracle_text"].metrics
    assert result.summary.conditions["oracle_text"].answers == 3
    page = (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")
    assert "Of 2 of 3 masks the segmenter says" in page
    (record, *_) = (json.loads(line) for line in (tmp_path / "eval" / "samples.jsonl").read_text().splitlines())
    kept = record["answers"][0]["masks"]["joint"]
    assert kept["presence"] == 1.0 and len(kept["instances"]) == 1


def test_an_answer_that_gives_no_prompt_counts_zero_for_its_mask_and_keeps_its_box():
    target = Target(regions=(Region(box=BOX, mask=Mask(data=np.ones((4, 5), bool))),))
    sample = Sample(query=Query(image=np.zeros((4, 5, 3), np.uint8), question="?"), target=target)
    rollout = Rollout(
        sample=sample,
        completion=Completion(text="", frame=None),
        grounding=Grounding(regions=(Region(box=BOX),)),
        fault=Fault.NO_PROMPT,
    )
    measured = measure(rollout)
    assert measured.fault is Fault.NO_PROMPT and measured.excluded == frozenset()
    assert (measured.values["dice_joint"], measured.values["iou"]) == (0.0, 1.0)
    assert medground.build("reward", "mask_dice")(rollout).value == 0.0


def test_the_command_line_grounds_by_words_and_says_what_is_not_present(tmp_path, capsys):
    Image.fromarray(spots(8, 40)).save(tmp_path / "spots.png")
    for question, area in (("Which bright spot is on the left?", None), ("Which purple spot?", 0)):
        words = ["ground", str(tmp_path / "spots.png"), question, "--recipe", "infer/toy_text", "--out", str(tmp_path)]
        with pytest.raises(SystemExit) as left:
            main([*words, "--json"])
        assert left.value.code in (0, None)
        (region,) = json.loads(capsys.readouterr().out)["regions"]
        assert region["text"] == question and region["prompt_kinds"] == ["box", "text"]
        assert region["mask"]["absent"] is (area == 0) and (area is None or region["mask"]["area"] == area)
    with pytest.raises(SystemExit):
        main(words)
    assert "not present (presence 0.00)" in capsys.readouterr().err
