"""The page of an evaluation whose questions mean several targets or none."""

import pytest
from medground_toy import phantoms

import medground

ONE = '<answer>[{"bbox": [10, 10, 60, 60], "points": [[15, 15], [40, 40]]}]</answer>'


def page(tmp_path, samples, texts) -> str:
    phantoms.write(tmp_path / "data", samples)
    recipe = {
        "reasoner": {"name": "scripted", "texts": texts},
        "prompt_interface": {"name": "regions", "think": False},
        "segmenter": "ellipse",
        "data": {"path": str(tmp_path / "data")},
        "evaluate": {"n_boot": 50, "pictures": 3},
    }
    medground.evaluate(recipe, out=tmp_path / "run")
    return (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def maybe(tmp_path_factory) -> str:
    samples = phantoms.samples(8, seed=3, size=(80, 80), families=["maybe"])
    return page(tmp_path_factory.mktemp("maybe"), samples, [ONE])


@pytest.mark.slow
def test_the_result_is_open_however_many_metrics_a_set_has(maybe):
    result = maybe.partition(">Result</h2>")[2].partition("</section>")[0]
    assert "union_dice" in result and "<details" not in result


@pytest.mark.slow
def test_sentences_above_the_pictures_are_apart(maybe):
    assert "no_target_accuracy is 0.000. 8 samples" in maybe


def test_an_absent_target_has_no_size(maybe):
    sizes = maybe.partition("by target size")[2].partition("</table>")[0]
    assert ">absent<" in sizes and "under 1" not in sizes


@pytest.mark.slow
def test_where_every_target_is_absent_answers_are_ranked_by_whether_they_say_so(tmp_path):
    samples = [one for one in phantoms.samples(16, seed=3, size=(80, 80), families=["maybe"]) if not one.target.regions]
    assert len(samples) > 2
    text = page(tmp_path, samples, [ONE])
    assert "Mean no_target_accuracy 0.000" in text and "they have no" not in text
    assert "every answer points at something, so none is called best" in text
    assert "<img" in text and "<b>no_target_accuracy 0.000</b>" in text
    assert "Absent targets, wrong answers first" not in text
