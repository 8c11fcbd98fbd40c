"""Splits without leakage: samples of one group go to one split."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from medground.data.duplicates import Fingerprint, connected_components, near_duplicates

SPLITS = ("train", "val", "test")


def leakage_groups(groups: Sequence[str], fingerprints: Sequence[Fingerprint], *, near: bool = True) -> list[int]:
    """Return for each sample the number of its leakage group: samples that may not part between splits.

    Samples are joined that share a source's group (the patient, else the volume, else the image), the pixels of their
    image, or, with `near`, an image that looks the same; and whatever is joined to the same is joined.
    """
    first_of: dict[Hashable, int] = {}
    pairs = []
    for index, (group, fingerprint) in enumerate(zip(groups, fingerprints, strict=True)):
        for key in (("group", group), ("pixels", fingerprint.pixels)):
            pairs.append((first_of.setdefault(key, index), index))
    if near:
        distinct = sorted({first_of["pixels", fingerprint.pixels] for fingerprint in fingerprints})
        near_pairs = near_duplicates([fingerprints[index] for index in distinct])
        pairs += [(distinct[i], distinct[j]) for i, j in near_pairs]
    return connected_components(len(groups), pairs)


def assign(
    groups: Sequence[int], strata: Sequence[Hashable], fractions: Mapping[str, float], *, seed: int = 0
) -> list[str]:
    """Return a split for every sample: groups stay whole, fractions and strata are met as far as groups allow.

    Groups are assigned one by one, largest first, ties in an order drawn from the seed, each to the split that needs it
    most: the share of the group's strata still to come there plus the share of the split still empty.

    Args:
        groups: the group of each sample.
        strata: what should be spread evenly, for example (modality, category), of each sample.
        fractions: split to its share of the samples; shares sum to 1.
        seed: everything follows from it and from the order of the samples.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    totals = Counter(strata)
    wanted = {name: {stratum: share * count for stratum, count in totals.items()} for name, share in fractions.items()}
    room = {name: share * len(groups) for name, share in fractions.items()}
    drawn = np.random.default_rng(seed).permutation(len(members))
    order = sorted(zip(members, drawn, strict=True), key=lambda pair: (-len(members[pair[0]]), pair[1]))
    splits = [""] * len(groups)
    for group, _ in order:
        counts = Counter(strata[index] for index in members[group])

        def need(name: str, counts: Counter[Hashable] = counts) -> float:
            missing = sum(count * wanted[name][stratum] / totals[stratum] for stratum, count in counts.items())
            return round(missing / sum(counts.values()) + room[name] / (fractions[name] * len(groups)), 9)

        chosen = max((name for name, share in fractions.items() if share > 0), key=need)
        room[chosen] -= len(members[group])
        for index in members[group]:
            wanted[chosen][strata[index]] -= 1
            splits[index] = chosen
    return splits


def leaking_groups(groups: Sequence[int], splits: Sequence[str]) -> int:
    """Return how many groups have samples in more than one split."""
    seen: dict[int, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        seen[group].add(split)
    return sum(len(names) > 1 for names in seen.values())
