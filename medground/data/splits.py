"""Splits without leakage: samples of one group go to one split."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from medground.data.duplicates import Fingerprint, connected_components, near_duplicates
from medground.errors import InputError

SPLITS = ("train", "val", "test")
GROUPS = ("patient", "study", "volume", "group")
"""Labels whose value may not be in two splits, the widest first."""
Owners = Mapping[str, str]
"""What a sample belongs to, by kind: of `GROUPS`, or of a name of the caller's, for example its image."""


def groups_of(labels: Mapping[str, str]) -> dict[str, str]:
    """Return what labels say that a sample belongs to."""
    return {word: labels[word] for word in GROUPS if labels.get(word)}


def pseudonym(name: str) -> str:
    """Return what stands for the name of a group, which may be a person's, where others see it.

    >>> pseudonym("Doe, Jane")
    '5aa5aba77eb1'
    """
    return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def without_names(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels as others may see them: a pseudonym as ``group`` stands for the widest of `GROUPS`."""
    widest = next(iter(groups_of(labels).items()), None)
    rest = {key: value for key, value in labels.items() if key not in GROUPS}
    if widest is None:
        return rest
    return {**rest, "group": widest[1] if widest[0] == "group" else pseudonym("|".join(widest))}


def joined(owners: Sequence[Owners], pairs: Iterable[tuple[int, int]] = ()) -> list[int]:
    """Return for each sample the number of its group: samples are joined that share an owner, or that a pair joins."""
    first_of: dict[tuple[str, str], int] = {}
    shared = [(first_of.setdefault(owner, index), index) for index, mine in enumerate(owners) for owner in mine.items()]
    return connected_components(len(owners), [*shared, *pairs])


def leakage_groups(owners: Sequence[Owners], fingerprints: Sequence[Fingerprint], *, near: bool = True) -> list[int]:
    """Return for each sample the number of its leakage group: samples that may not part between splits.

    Samples are joined that share an owner, the pixels of their image, or, with `near`, an image that looks the same; and
    whatever is joined to the same is joined.
    """
    first_of: dict[str, int] = {}
    for index, fingerprint in enumerate(fingerprints):
        first_of.setdefault(fingerprint.pixels, index)
    pairs = [(first_of[fingerprint.pixels], index) for index, fingerprint in enumerate(fingerprints)]
    if near:
        distinct = list(first_of.values())
        near_pairs = near_duplicates([fingerprints[index] for index in distinct])
        pairs += [(distinct[i], distinct[j]) for i, j in near_pairs]
    return joined(owners, pairs)


def complete_splits(stated: Sequence[str | None], owners: Sequence[Owners]) -> list[str]:
    """Return the split of every sample: the stated one; else that of what it is joined with; else a tenth by name.

    About 8 in 10 groups are ``train``, one ``val``, one ``test``, by their widest owner's name and nothing else.

    Raises:
        InputError: if a sample states no split and is joined with samples of two.
    """
    if all(stated):
        return [str(split) for split in stated]
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(joined(owners)):
        members[group].append(index)
    splits = list(stated)
    for indices in members.values():
        names = sorted({split for index in indices if (split := stated[index])})
        without = [index for index in indices if not stated[index]]
        if without and len(names) > 1:
            raise InputError(
                f"sample {without[0] + 1} names no split, and what belongs with it is in {' and '.join(names)}",
                hint="name the split of every line, or build anew: medground data build --splits make",
            )
        for index in without:
            splits[index] = names[0] if names else _tenth(_name([owners[member] for member in indices]))
    return [str(split) for split in splits]


def _name(owners: Sequence[Owners]) -> str:
    """The first name of the widest kind."""
    kinds = [*GROUPS, *sorted({kind for mine in owners for kind in mine} - set(GROUPS))]
    return next(min(names) for kind in kinds if (names := [mine[kind] for mine in owners if kind in mine]))


def _tenth(name: str) -> str:
    """One of ten tenths, by name."""
    tenth = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=4).digest()[0] % 10
    return {0: "test", 1: "val"}.get(tenth, "train")


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
