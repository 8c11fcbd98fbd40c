"""Splits do not leak, are deterministic, and come near their fractions; duplicates are found and look-alikes are not."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medground_toy import phantoms
from PIL import Image as Pillow

from medground.data.duplicates import connected_components, fingerprint, near_duplicates
from medground.data.splits import assign, leakage_groups, leaking_groups, pseudonym, without_names
from medground.images.read import read_image

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def saved_again(image, scale=0.6, quality=60):
    """The picture as somebody else might have exported it."""
    buffer = io.BytesIO()
    small = Pillow.fromarray(image)
    small.resize((int(small.width * scale), int(small.height * scale))).save(buffer, "JPEG", quality=quality)
    return np.asarray(Pillow.open(buffer).convert("RGB"))


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
@settings(deadline=None)
def test_union_joins_exactly_what_is_connected(pairs):
    result = connected_components(20, pairs)
    reach = np.eye(20, dtype=int)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = 1
    connected = np.linalg.matrix_power(reach, 20) > 0
    assert all((result[a] == result[b]) == connected[a, b] for a in range(20) for b in range(20))


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=80), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_groups_stay_whole_and_the_seed_decides(samples, seed):
    groups, strata = zip(*samples, strict=True)
    result = assign(groups, strata, FRACTIONS, seed=seed)
    assert leaking_groups(groups, result) == 0
    assert result == assign(groups, strata, FRACTIONS, seed=seed)
    assert set(result) <= set(FRACTIONS)


def test_fractions_and_strata_are_met_where_groups_allow():
    rng = np.random.default_rng(0)
    strata = rng.choice(list("aaaaabbbccd"), 1000).tolist()
    result = assign(range(1000), strata, FRACTIONS, seed=3)
    counts = Counter(result)
    assert all(abs(counts[name] / 1000 - share) < 0.01 for name, share in FRACTIONS.items())
    for stratum, total in Counter(strata).items():
        shares = Counter(split for split, one in zip(result, strata, strict=True) if one == stratum)
        assert all(abs(shares[name] / total - share) < 0.03 for name, share in FRACTIONS.items())


def test_a_group_goes_where_the_share_of_its_strata_and_of_the_empty_split_is_greatest():
    """Of 8 samples, 6 are wanted for train and 2 for test: of the 5 a, 3.75 and 1.25, of the 3 b, 2.25 and 0.75.

    The four a: train 3/4 + 6/6, test 1/4 + 2/2. The three b: train 3/4 + 2/6, test 1/4 + 2/2. The last a: train
    -0.25/5 + 2/6, test 1.25/5 - 1/2.
    """
    splits = assign([0, 0, 0, 0, 1, 1, 1, 2], "aaaabbba", {"train": 0.75, "test": 0.25}, seed=0)
    assert splits == ["train"] * 4 + ["test"] * 3 + ["train"]


def test_labels_that_others_see_hold_one_group_without_a_name():
    assert without_names({"modality": "ct"}) == {"modality": "ct"}
    assert without_names({"modality": "ct", "group": "g1"}) == {"modality": "ct", "group": "g1"}
    named = {"modality": "ct", "study": "s", "patient": "Doe"}
    assert without_names(named) == {"modality": "ct", "group": pseudonym("patient|Doe")}


def test_another_seed_deals_otherwise():
    assert assign(range(50), "a" * 50, FRACTIONS, seed=0) != assign(range(50), "a" * 50, FRACTIONS, seed=1)


def test_what_is_joined_to_the_same_is_joined():
    images = [phantoms.phantom(family, 1).image for family in ("ct", "mri", "xray", "fundus")]
    prints = [fingerprint(image) for image in [*images, images[0], saved_again(images[1])]]
    groups = [{"patient": name} for name in ("anna", "bert", "carl", "dora", "bert", "dora")]
    # anna's picture is also bert's; bert's other one looks like dora's
    assert leakage_groups(groups, prints) == [0, 0, 2, 0, 0, 0]
    assert leakage_groups(groups, prints, near=False) == [0, 0, 2, 3, 0, 3]


@pytest.mark.slow
def test_phantoms_of_one_family_are_no_duplicates_and_their_copies_are():
    drawn = [phantoms.phantom(family, seed).image for family in phantoms.FAMILIES for seed in range(3)]
    copies = [saved_again(image) for image in drawn]
    assert near_duplicates([fingerprint(image) for image in drawn]) == []
    pairs = near_duplicates([fingerprint(image) for image in [*drawn, *copies]])
    assert {(i, i + len(drawn)) for i in range(len(drawn))} <= set(pairs)


@pytest.mark.slow
def test_real_images_are_told_apart_and_their_copies_are_found(shared):
    root = shared / "data" / "pairs"
    rows = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    images = [read_image(root / name) for name in sorted({row["image"] for row in rows})]
    prints = [fingerprint(image) for image in images]
    alike = near_duplicates(prints)
    assert len(alike) <= 1  # two slices of one CT volume
    copies = near_duplicates([*prints, *(fingerprint(saved_again(image)) for image in images)])
    result = sum((i, i + len(images)) in set(copies) for i in range(len(images)))
    assert result >= 0.93 * len(images), result
