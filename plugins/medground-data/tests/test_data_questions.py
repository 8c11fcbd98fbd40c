"""Template questions are true, vary, distinguish targets and never name them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medground_data.attributes import ATTRIBUTES, attributes_of, superlative
from medground_data.question_templates import FORMS, QuestionTarget, ask
from medground_data.vocabulary import HINTS, KIND_HINTS, hints_of
from medground_toy import phantoms

from medground.data.category_names import VIEWS, kind_of, names_in, names_of
from medground.data.region_props import region_props
from medground.data.statements import untrue

Y, X = np.mgrid[:120, :160]


def disc(x, y, r):
    return np.hypot(X - x, Y - y) <= r


def measured(mask, inside=200, outside=60):
    image = np.full((*mask.shape, 3), outside, np.uint8)
    image[mask] = inside
    return region_props(image, mask)


def target(category, mask, modality="CT", **greys):
    return QuestionTarget(category=category, modality=modality, props=measured(mask, **greys))


def attribute_names(mask, **greys):
    return {attribute.name for attribute in attributes_of(measured(mask, **greys))}


@pytest.mark.parametrize(
    ("mask", "stated", "unstated"),
    [
        (disc(30, 30, 5), {"upper left", "left", "upper", "small", "rounded", "bright"}, {"right", "lower", "large", "centre"}),
        (disc(130, 95, 24), {"lower right", "rounded", "bright"}, {"small", "left", "long", "centre"}),
        (disc(80, 60, 45), {"centre", "large", "rounded"}, {"left", "right", "upper", "lower", "small"}),
        ((abs(Y - 60) < 3) & (abs(X - 80) < 60), {"long", "centre"}, {"rounded", "curved"}),
        (disc(80, 60, 40) & ~disc(80, 60, 28), {"hollow"}, {"rounded", "long", "divided"}),
        (disc(30, 60, 15) | disc(130, 60, 15), {"divided"}, {"rounded", "long"}),
        (disc(80, 60, 40) & ~disc(92, 60, 38), {"curved"}, {"rounded", "hollow"}),
    ],
)  # fmt: skip
def test_known_shapes_have_their_visible_attributes(mask, stated, unstated):
    names = attribute_names(mask)
    assert stated <= names
    assert not unstated & names


def test_bright_and_dark_compare_a_target_with_its_surroundings():
    assert "dark" in attribute_names(disc(80, 60, 20), inside=30, outside=120)
    assert not {"dark", "bright"} & attribute_names(disc(80, 60, 20), inside=100, outside=104)


def test_an_attribute_that_is_stated_is_never_excluded_for_a_rival():
    for attribute in ATTRIBUTES:
        assert attribute.stated_from >= attribute.possible_from


@pytest.mark.slow
@given(st.integers(0, 10_000), st.sampled_from(sorted(HINTS)), st.sampled_from(sorted(VIEWS)))
@settings(max_examples=80, deadline=None)
def test_every_question_is_true_and_does_not_name_its_target(seed, category, modality):
    rng = np.random.default_rng(seed)
    mask = disc(*rng.uniform((10, 10, 4), (150, 110, 40)))
    one = target(category, mask, modality, inside=int(rng.integers(0, 255)), outside=int(rng.integers(0, 255)))
    result = ask(one, [], rng)
    if result is None:
        return
    assert names_in(result.question, category) == []
    assert untrue(result.question, one.props) == []
    assert result.question.endswith("?")
    assert "{" not in result.question
    assert "  " not in result.question
    for attribute in ATTRIBUTES:
        for words in attribute.words:
            if attribute.slot == "position" and words in result.question:
                assert any(other.true_of(one.props) for other in ATTRIBUTES if words in other.words)


@pytest.mark.slow
def test_every_kind_and_modality_has_at_least_twelve_forms():
    categories = {"structure": "liver", "lesion": "tumor", "vessel": "aorta", "bone": "femur", "cells": "nucleus"}
    unknown = {"structure": "zorgan", "lesion": "nodule", "vessel": "some vein", "bone": "tibia", "cells": "stroma"}
    for names in (categories, unknown):
        assert {kind_of(name) for name in names.values()} == set(KIND_HINTS)
        for category in names.values():
            for modality in VIEWS:
                one = target(category, disc(40, 40, 12), modality)
                questions = [ask(one, [], np.random.default_rng(seed)) for seed in range(150)]
                assert len({item.form for item in questions if item}) >= 12, (category, modality)
                assert len({item.question for item in questions if item}) >= 60
    assert len(set(FORMS)) == len(FORMS) >= 18


def test_left_and_right_of_a_pair_are_told_apart():
    left, right = target("right kidney", disc(40, 60, 14)), target("left kidney", disc(120, 60, 14))
    for seed in range(40):
        result = ask(left, [right], np.random.default_rng(seed))
        assert result.distinct
        assert "left" in result.question.split("(")[0] or "furthest to the left" in result.question


def test_nested_targets_are_told_apart_by_size():
    whole, core = target("whole tumor", disc(80, 60, 40)), target("tumor core", disc(80, 60, 20))
    assert all(ask(whole, [core], np.random.default_rng(seed)).distinct for seed in range(20))


def test_a_question_that_fits_two_targets_is_marked():
    one, twin = target("nodule", disc(80, 60, 20)), target("nodule", disc(80, 60, 20))
    assert not ask(one, [twin], np.random.default_rng(0)).distinct


def test_a_superlative_needs_a_clear_difference():
    here, near, far = (measured(disc(x, 60, 10)) for x in (60, 64, 120))
    assert superlative(here, [near]) is None
    assert superlative(here, [far]) == "furthest to the left"
    assert superlative(far, [here, near]) == "furthest to the right"


def test_categories_are_recognized_by_name_and_synonym():
    assert "hepatic" in names_of("Liver")
    assert names_in("What in the hepatic region is this?", "liver") == ["hepatic"]
    assert names_in("Where is the delivery room?", "liver") == []
    assert names_in("Which tumours are these?", "kidney tumor") == ["tumour"]
    assert names_in("What grows on the kidney?", "kidney tumor") == []
    assert names_in("Which side is meant?", "left lung") == []
    assert hints_of("lungs") == hints_of("left lung") != ()
    assert hints_of("kidney tumor") == ()


def test_no_hint_names_its_category():
    for category, hints in HINTS.items():
        for hint in hints:
            assert names_in(hint, category) == [], (category, hint)


def test_only_statements_about_the_picture_can_contradict_the_box():
    left = measured(disc(30, 60, 10))
    assert untrue("Which spot on the right side of the image is it?", left) == ["right side of the image"]
    assert untrue("It lies in the upper right quadrant of the picture.", left) != []
    assert untrue("Which spot on the left side of the image is it?", left) == []
    assert untrue("Pain in the patient's right flank; where is the right kidney?", left) == []


def test_region_properties_do_not_depend_on_the_size_of_the_image():
    small, mask = phantoms.phantom("plain", 3, size=(64, 64)).image, disc(80, 60, 30)[:64, :64]
    assert mask.any()
    one = region_props(small, mask)
    two = region_props(np.kron(small, np.ones((3, 3, 1), np.uint8)), np.kron(mask, np.ones((3, 3), bool)))
    for name in ("x", "y", "area", "elongation", "orientation", "hole_fraction", "components"):
        assert np.isclose(getattr(one, name), getattr(two, name), rtol=0.02, atol=0.01), name
