"""Each dialect's marks and grid, on strings from the models' own processors, cards and papers."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed_completions import ALPHABET, ATTACKS, list_completions
from medground_prompts import Bbox, BboxPoints, MultiPoint, Regions, Tiled
from medground_prompts.dialects import DIALECTS

import medground
from medground.errors import RecipeError
from medground.frames import Frame, pixels
from medground.geometry import Box, Point
from medground.types import Completion, Fault, Query, Region, Target, text_of

SIZE = (1000, 2000)
QUERY = Query(image=np.zeros((4, 6, 3), np.uint8), question="Where is the nodule?")


def read(dialect, text, *, frame=None, size=SIZE, interface=None):
    interface = interface or Regions(style="native", dialect=dialect, think=False)
    return interface.parse(Completion(text=text, frame=frame), size)


def boxes(found):
    assert found.fault is None, found.fault
    return [tuple(region.box) for region in found.regions]


# The answer that the announcement of Qwen2.5-VL shows (qwenlm.github.io/blog/qwen2.5-vl), as it stands there.
QWEN = """```json
[
\t{"bbox_2d": [341, 258, 397, 360], "label": "motorcyclist", "sub_label": "not wearing helmat "},
\t{"bbox_2d": [212, 332, 274, 448], "label": "motorcyclist", "sub_label": "not wearing helmat "}
]
```"""


def test_qwen_counts_what_the_reasoner_s_frame_says():
    resized = read("qwen", QWEN, frame=Frame("pixel", (500, 1000)))
    assert boxes(resized) == [(682, 516, 794, 720), (424, 664, 548, 896)]
    assert [region.label for region in resized.regions] == ["motorcyclist", "motorcyclist"]
    thousandths = read("qwen", QWEN, frame=Frame("permille", (500, 1000)))
    assert boxes(thousandths)[0] == (682, 258, 794, 360)


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [341, 258, 397, 360], "label": "it\'s"}]',
        "[{'bbox_2d': [341, 258, 397, 360], 'label': 'it\\'s'}]",
        'The region is here:\n```json\n[{"bbox_2d": [341, 258, 397, 360], "label": "it\'s"}]\n```\nIt is dense.',
        'The anomaly region is located at: {"bbox_2d": [341, 258, 397, 360], "label": "it\'s"}',
        '<answer>[{"bbox_2d": [341, 258, 397, 360], "label": "it\'s"}]</answer>',
    ],
)
def test_json_is_read_in_fences_in_prose_in_tags_and_in_python_s_quotes(text):
    found = read("qwen", text, frame=pixels(SIZE))
    assert boxes(found) == [(341, 258, 397, 360)] and found.region.label == "it's"


def test_qwen_points():
    text = '[{"point_2d": [300, 400], "label": "a"}, {"point_2d": [500, 600], "label": "b"}]'
    found = read("qwen", text, frame=pixels(SIZE), interface=MultiPoint(style="native", dialect="qwen"))
    assert [region.points for region in found.regions] == [(Point(300, 400),), (Point(500, 600),)]


def test_gemma_writes_y_first_in_thousandths_whatever_the_reasoner_s_frame():
    text = '```json\n[{"box_2d": [182, 110, 808, 882], "label": "headphones"}]\n```'  # Gemini's convention
    assert boxes(read("gemma", text, frame=pixels((448, 448)))) == [(220, 182, 1764, 808)]


def test_internvl_divides_by_a_thousand():
    """The form of its training data; its evaluation takes brackets alone as well."""
    text = "<ref>circle</ref><box>[[278,24,354,100],[515,10,611,106]]</box>"
    found = read("internvl", text)
    assert boxes(found) == [(556, 24, 708, 100), (1030, 10, 1222, 106)]
    assert [region.label for region in found.regions] == ["circle", "circle"]
    assert boxes(read("internvl", "[[278, 24, 354, 100]]")) == boxes(read("internvl", "[278, 24, 354, 100]"))
    two = read("internvl", "A <ref>bus</ref><box>[[0, 0, 9, 9]]</box> on a <ref>road</ref><box>[[9, 9, 99, 99]]</box>.")
    assert [region.label for region in two.regions] == ["bus", "road"]


def test_paligemma_s_bins_name_grid_lines_from_edge_to_edge():
    found = read("paligemma", "<loc0000><loc0000><loc1023><loc1023> cat")
    assert boxes(found) == [(0, 0, 2000, 1000)] and found.region.label == "cat"
    # roboflow/supervision's test string; big_vision, the model's own code, divides by 1023.
    (box,) = boxes(read("paligemma", "<loc0256><loc0256><loc0768><loc0768> cat"))
    assert box == pytest.approx((256 / 1023 * 2000, 256 / 1023 * 1000, 768 / 1023 * 2000, 768 / 1023 * 1000))
    several = read(
        "paligemma",
        "<loc0010><loc0020><loc0300><loc0400><seg000><seg127> cat ; <loc0001><loc0002><loc0003><loc0004> dog",
    )
    assert [region.label for region in several.regions] == ["cat", "dog"]
    assert boxes(several)[0] == pytest.approx(
        (20 / 1023 * 2000, 10 / 1023 * 1000, 400 / 1023 * 2000, 300 / 1023 * 1000)
    )
    assert read("paligemma", "<loc0256><loc0768><loc0768> cat").fault is Fault.BAD_BOX


FLORENCE = "</s><s>car<loc_53><loc_334><loc_933><loc_775>door handle<loc_425><loc_504><loc_474><loc_516></s><pad>"
"""From transformers' own test of the processor (tests/models/florence2/test_processing_florence2.py)."""


def test_florence_s_bins_name_their_middles():
    found = read("florence", FLORENCE)
    assert [region.label for region in found.regions] == ["car", "door handle"]
    assert boxes(found)[0] == pytest.approx((53.5 * 2, 334.5, 933.5 * 2, 775.5))


@pytest.mark.slow
def test_florence_s_numbers_are_those_of_its_own_processor():
    found = read("florence", FLORENCE)
    torch = pytest.importorskip("torch")
    processing = pytest.importorskip("transformers.models.florence2.processing_florence2")
    processor = processing.Florence2PostProcessor(None, SimpleNamespace(all_special_tokens=[]))
    theirs = processor.parse_description_with_bboxes_from_text_and_spans(FLORENCE, image_size=(SIZE[1], SIZE[0]))
    assert [one["cat_name"] for one in theirs] == ["car", "door handle"]
    assert [tuple(one["bbox"]) for one in theirs] == [tuple(map(int, box)) for box in boxes(found)]
    region = Region(box=Box(107, 334.5, 1867, 775.5))
    bins = processor.quantize(torch.tensor([[107.0, 334.5, 1867.0, 775.5]]), (SIZE[1], SIZE[0]))[0].tolist()
    written = Regions(style="native", dialect="florence", think=False).answer(Target(regions=(region,)), size=SIZE)
    assert written == "target" + "".join(f"<loc_{number}>" for number in bins)


def test_florence_gives_several_boxes_one_name():
    text = "red car<loc_53><loc_334><loc_933><loc_775><loc_711><loc_203><loc_906><loc_546>sky<loc_0><loc_0><loc_999><loc_300>"
    assert [region.label for region in read("florence", text).regions] == ["red car", "red car", "sky"]
    assert read("florence", "car<loc_53><loc_334><loc_933>").fault is Fault.BAD_BOX


@pytest.mark.parametrize(
    ("dialect", "text", "points"),
    [
        ("molmo", '<point x="61.5" y="40.4" alt="mast">mast</point>', [(1230, 404)]),
        (
            "molmo",
            '<points x1="10.0" y1="20.0" x2="30.0" y2="40.0" alt="hands">hands</points>',
            [(200, 200), (600, 400)],
        ),
        # The paper of Molmo2 (arXiv 2601.10611): image or frame first, then id, x and y.
        ("molmo2", '<points coords="1 1 555 169">mast</points>', [(1110, 169)]),
        ("molmo2", '<points coords="1 1 308 305 2 752 377">curb ramp</points>', [(616, 305), (1504, 377)]),
    ],
)
def test_molmo_s_points_are_percent_and_molmo2_s_thousandths(dialect, text, points):
    found = read(dialect, f"Counting: {text}")
    assert found.fault is None
    assert [region.points for region in found.regions] == [(pytest.approx(point),) for point in points]
    assert found.regions[0].label in ("mast", "hands", "curb ramp")


def test_molmo_says_that_there_are_none():
    assert read("molmo", "There are none.").abstains and read("molmo2", "there are none").abstains
    assert read("molmo", "There are none that I would call so.").fault is Fault.NO_ANSWER


@pytest.mark.parametrize("dialect", DIALECTS)
def test_prose_without_marks_is_no_answer_and_half_marks_are_faults(dialect):
    assert read(dialect, "I cannot find it.").fault is Fault.NO_ANSWER
    assert read(dialect, "").fault is Fault.NO_ANSWER
    broken = {"qwen": '[{"bbox_2d": [1, 2]', "gemma": "[{]", "internvl": "<box>[[1, 2</box>", "paligemma": "<loc0001>",
              "florence": "a<loc_1>", "molmo": "<point x=>", "molmo2": '<points coords="1 1">'}  # fmt: skip
    found = read(dialect, broken[dialect])
    assert found.fault is not None and not found.abstains


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("size", [(37, 53), (480, 640), (1024, 100)])
def test_the_ideal_answer_is_read_back_within_half_a_unit_of_the_dialect(dialect, size, think):
    interface = Regions(style="native", dialect=dialect, think=think)
    height, width = size
    regions = tuple(
        Region(box=Box(share * width, share * height, (share + 0.31) * width, (share + 0.27) * height), label=f"n{i}",
               points=(Point((share + 0.1) * width, (share + 0.2) * height),))
        for i, share in enumerate((0.05, 0.33, 0.68))
    )  # fmt: skip
    seen = Frame("pixel", (420, 616))
    text = interface.answer(Target(regions=regions), frame=seen, size=size)
    found = interface.parse(Completion(text=text, frame=seen), size)
    assert found.fault is None and len(found.regions) == 3 and found.answer_level == 1
    parts = {"paligemma": 1023, "florence": 1000, "qwen": 420}.get(dialect, 1000)
    for said, meant in zip(found.regions, regions, strict=True):
        assert said.label == (meant.label if dialect != "molmo2" else "n0")
        pairs = [(said.box, meant.box)] if said.box else [(said.points[0], meant.points[0])]
        for one, other in pairs:
            drift = np.abs(np.reshape(one, (-1, 2)) - np.reshape(other, (-1, 2))) / (width, height) * parts
            assert drift.max() <= 0.5 + 1e-6


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_side_thinner_than_a_bin_keeps_an_area(dialect):
    if DIALECTS[dialect].box is None:
        return
    interface = Regions(style="native", dialect=dialect, think=False)
    for box in (Box(0, 0, 0.1, 0.1), Box(1999.9, 999.9, 2000, 1000)):
        text = interface.answer(Target(regions=(Region(box=box),)), frame=pixels(SIZE), size=SIZE)
        assert interface.parse(Completion(text=text, frame=pixels(SIZE)), SIZE).fault is None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_a_dialect_has_no_word_for_is_not_taught(dialect):
    interface = Regions(style="native", dialect=dialect, think=False)
    if DIALECTS[dialect].nothing is None:
        with pytest.raises(ValueError, match="no word"):
            interface.answer(Target(regions=()), frame=pixels(SIZE), size=SIZE)
    else:
        text = interface.answer(Target(regions=()), frame=pixels(SIZE), size=SIZE)
        assert read(dialect, text).abstains


@pytest.mark.parametrize("dialect", sorted(set(DIALECTS) - {"qwen"}))
def test_a_grid_of_its_own_needs_the_size_of_the_image(dialect):
    target = Target(regions=(Region(box=Box(20, 30, 50, 60), points=(Point(30, 40), Point(40, 50))),))
    with pytest.raises(ValueError, match="needs the"):
        Regions(style="native", dialect=dialect).answer(target)


def test_one_box_is_asked_for_and_several_or_none_are_no_answer_to_that():
    one = Bbox(style="native", dialect="qwen", think=False)
    assert read("qwen", QWEN, frame=pixels(SIZE), interface=one).fault is Fault.TWO_ANSWERS
    assert read("qwen", "[]", frame=pixels(SIZE), interface=one).fault is Fault.NO_ANSWER
    found = read("qwen", '[{"bbox_2d": [1, 2, 30, 40]}]', frame=pixels(SIZE), interface=one)
    assert (found.fault, found.region.box, found.answer_level) == (None, (1, 2, 30, 40), 1)


@pytest.mark.parametrize("opening", ["<think>", ""])
def test_thinking_may_be_opened_by_the_chat_template_and_a_draft_in_it_is_no_answer(opening):
    draft = '[{"bbox_2d": [1, 2, 3, 4], "label": "draft"}]'
    text = f'{opening}Perhaps {draft}? No.</think>\n[{{"bbox_2d": [10, 20, 30, 40], "label": "a"}}]'
    found = read("qwen", text, frame=pixels(SIZE), interface=Regions(style="native", dialect="qwen"))
    assert boxes(found) == [(10, 20, 30, 40)]
    assert found.think == f"Perhaps {draft}? No." and found.think_level == 1


@pytest.mark.parametrize(
    ("interface", "draft"),
    [
        (Regions(style="native", dialect="qwen"), '[{"bbox_2d": [1, 2, 3, 4], "label": "draft"}]'),
        (Regions(points=False), "<answer>[]</answer>"),
        (Bbox(), '<answer>{"bbox": [1, 2, 3, 4]}</answer>'),
    ],
)
def test_a_draft_in_thinking_that_the_length_limit_cut_off_is_no_answer(interface, draft):
    cut = Completion(text=f"<think>Perhaps {draft}? No, rather", frame=pixels(SIZE), finish_reason="length")
    found = interface.parse(cut, SIZE)
    assert (found.fault, found.regions, found.abstains) == (Fault.NO_ANSWER, (), False)
    closed = Completion(text=f"<think>It is.</think>{draft}", frame=pixels(SIZE), finish_reason="length")
    assert interface.parse(closed, SIZE).fault is None


def test_two_answer_blocks_are_no_answer_in_a_model_s_own_way_either():
    text = '<think>a</think><answer>[]</answer><answer>[{"bbox_2d": [1, 2, 30, 40], "label": "a"}]</answer>'
    found = read("qwen", text, frame=pixels(SIZE), interface=Regions(style="native", dialect="qwen"))
    assert (found.fault, found.regions) == (Fault.TWO_ANSWERS, ())


def test_the_prompt_asks_in_the_model_s_own_way():
    def asked(dialect, **others):
        return text_of(Regions(style="native", dialect=dialect, think=False, **others).render(QUERY)).strip()

    assert asked("internvl").endswith(f"describes: <ref>{QUERY.question}</ref>")
    assert asked("paligemma") == f"detect {QUERY.question}"
    assert "bbox_2d" in asked("qwen") and "box_2d" in asked("gemma") and "[ymin, xmin, ymax, xmax]" in asked("gemma")
    assert asked("molmo").startswith("Point to") and asked("qwen", instructions=False) == QUERY.question
    assert "<think>" in text_of(Regions(style="native", dialect="qwen").render(QUERY))
    assert "point_2d" in text_of(MultiPoint(style="native", dialect="qwen").render(QUERY))


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (BboxPoints, {"style": "native"}, "bbox, regions or multi_point"),
        (Bbox, {"style": "native", "parser": "strict"}, "parser lenient"),
        (Bbox, {"style": "native", "dialect": "molmo"}, "regions"),
        (MultiPoint, {"style": "native", "dialect": "internvl"}, "regions"),
        (Bbox, {"dialect": "qwen"}, "style=native"),
        (Bbox, {"style": "native", "dialect": "quen"}, "did you mean 'qwen'"),
        (Regions, {"style": "native", "confidence": True}, "confidence=false"),
        (MultiPoint, {"style": "native", "k": 2}, "k=1"),
    ],
)
def test_dialects_that_cannot_be_spoken_are_refused(kind, arguments, words):
    with pytest.raises(RecipeError) as refused:
        kind(**arguments)
    assert words in f"{refused.value.message} {refused.value.hint}"


class Native:
    """A reasoner that names its dialect and always says one thing."""

    dialect = "internvl"

    def frame(self, size):
        return Frame("permille", size)

    def generate(self, batch, sampling):
        text = "<ref>a</ref><box>[[100, 200, 300, 400]]</box>"
        return [[Completion(text=text, frame=Frame("permille", (9, 9)))] * sampling.num_generations for _ in batch]


@pytest.mark.parametrize(
    "interface", [Bbox(style="native", think=False), Regions(style="native"), Tiled(interface=Bbox(style="native"))]
)
def test_the_pipeline_speaks_the_reasoner_s_dialect(interface):
    assert interface.needs_dialect
    with pytest.raises(RecipeError, match="which dialect"):
        interface.render(QUERY)
    pipeline = medground.Pipeline(Native(), interface, medground.build("segmenter", "box_fill"), prompt="box")
    result = pipeline(np.zeros((100, 200, 3), np.uint8), "Where?")
    assert result.fault is None and result.regions[0].box == (20, 20, 60, 40)


def check(dialect, text, frame):
    found = read(dialect, text, frame=frame)
    assert found.fault is None or found.fault.of_model
    assert 0 <= found.answer_level <= 1 and len(found.regions) <= 64
    for region in found.regions:
        numbers = [*(region.box or ()), *itertools.chain(*region.points)]
        assert all(math.isfinite(number) for number in numbers) and region.prompt() is not None
    return found


MARKS = ["<loc0001>", "<loc1023>", "<loc_0>", "<loc_999>", "<seg001>", "<ref>", "</ref>", "<box>", "</box>", "[[", "]]"]
MARKS += [
    "<point",
    ' x="1.0"',
    ' y="2"',
    ' coords="1 1 100 200"',
    "</points>",
    ">",
    ";",
    "bbox_2d",
    "```json",
    "There are none.",
]


@given(st.lists(st.sampled_from([*ALPHABET, *MARKS])).map("".join), st.sampled_from([None, pixels(SIZE)]))
def test_any_text_gives_a_consistent_grounding(text, frame):
    for dialect in DIALECTS:
        check(dialect, text, frame)


def mixed(seed):
    rng = np.random.default_rng(seed)
    for text in list_completions(seed):
        words = rng.choice([*MARKS, *ALPHABET[:40]], size=rng.integers(0, 12)).tolist()
        at = int(rng.integers(0, len(text) + 1))
        yield text[:at].replace('"bbox"', '"bbox_2d"') + "".join(words) + text[at:]


@pytest.mark.slow
def test_five_thousand_fuzzed_texts_give_consistent_groundings():
    for number, text in enumerate(itertools.islice(mixed(0), 5_000)):
        for dialect in DIALECTS:
            check(dialect, text, [None, pixels(SIZE)][number % 2])


@pytest.mark.soak
def test_a_hundred_thousand_fuzzed_texts_give_consistent_groundings():
    for number, text in enumerate(itertools.islice(mixed(1), 100_000)):
        for dialect in DIALECTS:
            check(dialect, text, [None, pixels(SIZE)][number % 2])


@pytest.mark.parametrize("attack", [*ATTACKS.values(), *(lambda n, m=mark: m * (n // len(m)) for mark in MARKS)])
def test_attacks_end_in_a_fault(attack):
    for dialect in DIALECTS:
        for length in (100, 16_000, 60_000, 80_000):
            check(dialect, attack(length), pixels(SIZE))
