"""Train, val and test without leakage: what belongs together stays together."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from medground.data.duplicates import Fingerprint, near_duplicates, united

SPLITS = ("train", "val", "test")


def together(groups: Sequence[str], prints: Sequence[Fingerprint], *, near: bool = True) -> list[int]:
    """For each sample the number of the group it may not be parted from.

    Samples are joined that share a source's group (the patient, else the volume, else the image), the pixels of their
    image, or, with `near`, an image that looks the same; and whatever is joined to the same is joined.
    """
    first_of: dict[Hashable, int] = {}
    pairs = []
    for index, (group, one) in enumerate(zip(groups, prints, strict=True)):
        for key in (("group", group), ("pixels", one.pixels)):
            pairs.append((first_of.setdefault(key, index), index))
    if near:
        shown = sorted({first_of["pixels", one.pixels] for one in prints})
        pairs += [(shown[i], shown[j]) for i, j in near_duplicates([prints[index] for index in shown])]
    return united(len(groups), pairs)


def assign(
    groups: Sequence[int], strata: Sequence[Hashable], fractions: Mapping[str, float], *, seed: int = 0
) -> list[str]:
    """A split for every sample: groups stay whole, fractions and strata are met as far as groups allow.

    Groups are dealt one by one, largest first, equals in an order drawn from the seed, each to the split that needs it
    most: the share of the group's strata still to come there plus the share of the split still empty.

    Args:
        groups: the group of each sample.
        strata: what should be spread evenly, such as (modality, category), of each sample.
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
    found = [""] * len(groups)
    for group, _ in order:
        held = Counter(strata[index] for index in members[group])

        def need(name: str, held: Counter[Hashable] = held) -> float:
            missing = sum(count * wanted[name][stratum] / totals[stratum] for stratum, count in held.items())
            return round(missing / sum(held.values()) + room[name] / (fractions[name] * len(groups)), 9)

        chosen = max((name for name, share in fractions.items() if share > 0), key=need)
        room[chosen] -= len(members[group])
        for index in members[group]:
            wanted[chosen][strata[index]] -= 1
            found[index] = chosen
    return found


def straddling(groups: Sequence[int], splits: Sequence[str]) -> int:
    """How many groups have samples in more than one split."""
    seen: dict[int, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        seen[group].add(split)
    return sum(len(names) > 1 for names in seen.values())
