"""The evaluation's page: in one file, safe to open, complete; published numbers with their source."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import medground
from medground.data.open_dataset import open_dataset
from medground.errors import RecipeError
from medground.evaluation.metrics import DEFINITIONS
from medground.evaluation.pictures import pictures, ranked
from medground.evaluation.published import names, published
from medground.evaluation.report import evaluation_report
from medground.evaluation.results import EvaluationMetadata
from medground.recipe import resolve

HOSTILE = (
    '<think><script>alert(1)</script><img src="https://example.org/x"></think><answer>{"bbox": [10, 10, 60, 60], '
    '"points_1": [15, 15], "points_2": [40, 40]}</answer>'
)
LEGEND = {"truth", "mask", "true box", "box", "key points"}
VOID = {"meta", "img", "br", "hr", "input", "link"}
FULL = ["answer", "perfect_segmenter", "oracle_box", "jitter_10", "jitter_20", "centre_box", "blank", "think_removed"]


class Page(HTMLParser):
    """Elements, headings and table captions of a page; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.texts.setdefault(tag, []).append(data)

    def said(self, tag):
        return " ".join(self.texts.get(tag, []))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    from medground_toy import phantoms

    folder = tmp_path_factory.mktemp("report")
    phantoms.write(folder / "data", phantoms.samples(12, seed=5, size=(80, 80)))
    recipe = {
        "reasoner": {"name": "scripted", "texts": [HOSTILE, "I would rather not say."]},
        "prompt_interface": "bbox_points",
        "segmenter": "threshold",
        "sampling": {"num_generations": 2},
        "data": {"path": str(folder / "data")},
        "evaluate": {"n_boot": 50, "conditions": FULL, "published": names(), "pictures": 3},
    }
    medground.evaluate({**recipe, "segmenter": "ellipse"}, out=folder / "before")
    medground.evaluate(recipe, out=folder / "run", baseline=folder / "before")
    return folder / "run"


@pytest.fixture(scope="module")
def text(run) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_loads_nothing_from_outside_itself(text):
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "link", "base", "form")
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, name, value)
    assert not re.search(r"@import|url\(", page.said("style"))
    assert sum(tag == "script" for tag, _ in page.elements) == 1, "what a model wrote is text"
    assert "alert(1)" in page.said("pre")


@pytest.mark.slow
def test_the_page_has_every_section(text):
    page = Page(text)
    titles = page.said("h2")
    for title in ("Best, typical, worst", "Result", "Ceilings", "Blind baselines", "Probes", "Left out", "Against before",
                  "By what is shown", "Failures", "Size and score", "Calibration of predicted IoU", "More pictures",
                  "Published: MedReasoner, main table", "Run card"):  # fmt: skip
        assert title in titles
    for title in ("The next best by dice_joint", "The next worst by dice_joint", "Drawn at random"):
        assert title in page.said("h3")
    assert "Beyond the ellipse inscribed in its box" in page.said("p")
    assert "12 of 24 answers end without any answer block (refusals)." in page.said("p")
    assert "not a medical device" in page.said("footer")
    assert "cannot go on" in page.said("td")
    assert "iou_compat by super-category, as published" in page.said("caption")
    assert {"refusals", "abdomen anatomies"} <= set(page.texts["button"])
    assert page.said("figcaption").count("in the mean of 2 answers; the first is shown") == 12


@pytest.mark.slow
def test_pictures_come_before_every_table_and_the_worst_is_not_called_best(run, text):
    assert text.index("<img") < text.index("<table")
    scores = sorted(record["values"]["dice_joint"] for record in _lines(run) if record["condition"] == "answer")
    bold = Page(text).texts["b"][:6]
    assert [words.partition(",")[0] for words in bold[::2]] == ["Best", "Typical (median)", "Worst"]
    shown = [scores[-1], scores[::-1][len(scores) // 2], scores[0]]
    assert bold[1::2] == [f"dice_joint {score:.3f}" for score in shown]


@pytest.mark.slow
def test_one_legend_stands_outside_the_pictures_of_a_section(text):
    page = Page(text)
    words = [words.strip() for words in page.texts["li"] if words.strip() in LEGEND]
    assert words == ["truth", "mask", "true box", "box", "key points"] * 2, "above the first pictures and the others"


@pytest.mark.slow
def test_the_floor_stands_beside_the_dice_in_every_table_of_rows(text):
    headings = re.findall(r"<thead>(.*?)</thead>", text, re.DOTALL)
    tables = [re.findall(r'<button type="button">([^<]*)</button>', heading) for heading in headings]
    tables = [columns for columns in tables if "dice_joint" in columns and "iou" in columns]
    assert len(tables) == 3 + 4, "ceilings, baselines, probes; modality, category, size and all of them"
    assert all("dice_ellipse" in columns for columns in tables)


def _lines(run):
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_pictures_have_alternative_texts_and_are_small(text):
    images = [attributes for tag, attributes in Page(text).elements if tag == "img"]
    assert len(images) == 3 + 9
    for image in images:
        assert re.match(r"\w[\w ,-]*: answer and truth, dice_joint \d\.\d\d", image["alt"])
        assert len(image["src"]) < 100_000
    assert len(text) < 2_000_000


@pytest.mark.slow
def test_numbers_on_the_page_are_those_of_the_file(run, text):
    metrics = json.loads((run / "metrics.json").read_text())
    row = metrics["conditions"]["answer"]["metrics"]["dice_joint"]
    assert f'data-value="{row["mean"]!r}"' in text
    assert f"{row['low']:.3f}\u00a0to\u00a0{row['high']:.3f}" in text
    rows = metrics["baseline"]["comparisons"]
    assert {row["p_holm"] for row in rows if not row["differ"]} == {1.0}
    family = [row for row in rows if row["differ"]]
    assert family
    assert min(row["p_holm"] for row in family) == pytest.approx(min(1, len(family) * min(row["p"] for row in family)))


@pytest.mark.slow
def test_without_pictures_no_image_leaves_the_data(run, tmp_path):
    again = medground.evaluate(str(run), "evaluate.pictures=0", "evaluate.limit=3", out=tmp_path / "again")
    assert "<img" not in (again.folder / "report.html").read_text()


@pytest.mark.slow
def test_a_page_leads_with_the_first_condition_where_the_answers_are_not_asked_for(run, tmp_path):
    only = ["evaluate.conditions=[oracle_box,oracle_points]", "evaluate.pictures=0", "evaluate.published=[]"]
    done = medground.evaluate(str(run), *only, out=tmp_path / "o")
    assert done.summary.conditions["oracle_box"].crossed and done.summary.conditions["oracle_points"].crossed is None
    assert "the true box through the segmenter" in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.slow
def test_a_thousand_cases_stay_under_twenty_megabytes(run):
    recipe = resolve(str(run), "evaluate.published=[]")
    result = medground.evaluate(recipe)
    metadata = EvaluationMetadata(**json.loads((run / "run.json").read_text()))
    own = [record for record in result.records if record.condition == "answer"]
    many = [replace(own[number % len(own)], id=f"{number}") for number in range(1000)]
    samples = {sample.query.id: sample for sample in open_dataset(recipe.config.data.path)}
    page = evaluation_report(recipe, metadata, result.summary, many, lambda name: samples[own[int(name) % len(own)].id])
    assert page.count("<img") == 3 + 9
    assert len(page.encode()) < 2_000_000


@pytest.mark.slow
def test_a_metric_has_one_name_on_the_page_and_in_the_file(run, text):
    metrics = json.loads((run / "metrics.json").read_text())["conditions"]["answer"]["metrics"]
    cells = Page(text).texts["td"]
    assert all(name in cells and row["definition"] in cells for name, row in metrics.items())
    assert metrics.keys() <= DEFINITIONS.keys()


def test_best_typical_and_worst_are_named_with_how_many_share_the_place():
    order = ranked({"a": 0.0, "b": 0.9, "c": 0.0, "d": 0.2, "e": 0.4})
    assert order.ids == ["b", "e", "d", "a", "c"]
    assert order.extremes() == {"Best": "b", "Typical (median)": "d", "Worst, as 1 other": "c"}
    assert order.remark("dice_joint") is None
    assert ranked({"a": 0.1, "b": 0.2}).extremes() == {"Best": "b", "Worst": "a"}
    assert list(ranked({"a": 0.5, "b": 0.5, "c": 0.1}).extremes()) == ["Best, as 1 other", "Typical (median)", "Worst"]


def test_nothing_is_called_best_where_every_answer_misses():
    order = ranked(dict.fromkeys("abcde", 0.0))
    assert order.remark("dice_joint").startswith("dice_joint is 0.000 in all 5 samples: no answer shares anything")
    assert order.extremes() == {"Sample 1 of 5": "a", "Sample 3 of 5": "c", "Sample 5 of 5": "e"}
    assert "none is better than another" in ranked({"a": 1.0, "b": 1.0}).remark("iou")
    assert "the only sample" in ranked({"a": 1.0}).remark("iou")
    assert ranked({}).extremes() == {} and ranked({}).remark("iou") is None


@pytest.mark.slow
def test_a_page_of_misses_says_what_there_is_instead_of_a_best(run):
    recipe = resolve(str(run), "evaluate.published=[]", "evaluate.conditions=[answer]")
    result = medground.evaluate(recipe)
    missed = [replace(record, values=dict.fromkeys(record.values, 0.0)) for record in result.records]
    samples = {sample.query.id: sample for sample in open_dataset(recipe.config.data.path)}
    metadata = EvaluationMetadata(**json.loads((run / "run.json").read_text()))
    page = Page(evaluation_report(recipe, metadata, result.summary, missed, samples.__getitem__))
    assert "no answer shares anything with its target, so none is called best" in page.said("p")
    assert "Some answers" in page.said("h2") and "Best" not in page.said("b") + page.said("h2")
    assert pictures(missed, samples.__getitem__, 3, 0).galleries.keys() == {"Others"}


@pytest.mark.parametrize("name", names())
def test_published_tables_say_where_they_come_from(name):
    table = published(name)
    assert "2508.08177" in table.source
    assert table.title and table.data and table.segmenter
    for row in table.rows:
        assert row.values.keys() <= table.definitions.keys() <= DEFINITIONS.keys()
        assert all(value is None or 0 < value < 200 for value in row.values.values())


def test_published_numbers_are_those_of_the_table():
    rows = {(row.model, row.size): row for row in published("medreasoner").rows}
    assert len(rows) == 16
    assert rows["MedReasoner", "7B"].values == {"iou_compat": 32.42, "pdice_compat": 26.55, "dice_joint": 37.78}
    assert rows["VLMR1-REC", "3B"].values["pdice_compat"] is None
    assert rows["GPT-4o", None].iou_compat_by_supercategory["lung"] == 11.70
    gain = {
        key: rows["MedReasoner", "7B"].values[key] - value for key, value in rows["Qwen2.5-VL", "72B"].values.items()
    }
    assert gain == pytest.approx({"iou_compat": 14.10, "pdice_compat": 14.16, "dice_joint": 8.07})
    with pytest.raises(RecipeError, match="did you mean 'medreasoner'"):
        published("medreasone")
