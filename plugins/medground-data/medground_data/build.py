"""Build a dataset from source samples: `medground data build`.

A dataset is a folder with ``images/``, ``masks/``, ``manifest.jsonl`` (see `medground.data.manifest`), perhaps ``volumes/`` and
``volumes.jsonl`` (see `medground.data.volume_samples`), ``rejected.jsonl``
(what could not be used: where, and why), ``findings.jsonl`` (what the linter says of the sources that were used) and
``build.json`` (how it was built, counts, and a digest of all of it). It is built in a folder beside its own, whose name
ends in ``.building``, and renamed when it is complete.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import medground
from medground.data.source_samples import BadSample, SourceSample
from medground.data.splits import SPLITS, assign, joined, leakage_groups, leaking_groups, pseudonym
from medground.errors import InputError, did_you_mean
from medground.runs.files import locked, sha256_file
from medground_data.drafts import Draft, Drafts, Options, make_drafts
from medground_data.every import ask_about_every, keep_questions, leave_out
from medground_data.volumes import write_volumes

QuestionSource = Callable[[list[Draft], Path], list[BadSample]]
"""Sets the question of every draft and returns those to leave out; the folder stores what must survive a restart."""


def build(
    source: Iterable[SourceSample | BadSample],
    out: Path,
    options: Options,
    ask: QuestionSource,
    *,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build a dataset and return what its ``build.json`` holds.

    Args:
        source: what a reader yields.
        out: the dataset's folder; it must not exist or be empty.
        options: how samples are made.
        ask: sets the questions.
        about: the source, the reader and its options, for ``build.json``.

    Raises:
        InputError: if `out` holds something, or not one sample could be made.
    """
    with building(out):
        work = out.with_name(f"{out.name}.building")
        for name in ("images", "masks", "volumes"):
            shutil.rmtree(work / name, ignore_errors=True)
        for name in ("images", "masks"):
            (work / name).mkdir(parents=True)
        built = make_drafts(source, work, options)
        about_every = ask_about_every(built, options)
        alone = [one for one in built.drafts if not one.apart]
        stated = [one for one in built.drafts if one.apart]
        built.rejected += leave_out(alone, options)
        alone = [] if options.targets == "every" else [one for one in alone if not one.unfit]
        built.rejected += (ask(alone, work) if alone else []) + keep_questions(stated, options)
        usable = set(map(id, [*alone, *stated]))
        drafts = [one for one in built.drafts if id(one) in usable] + about_every
        built.drafts = [one for one in drafts if one.line.get("question")]
        if not built.drafts:
            raise InputError(
                f"not one sample could be made of {built.sources} source samples",
                hint=_first(built.rejected) or "the source holds no masks",
            )
        splits = _split(built.drafts, options)
        summary = {**_summary(built, options), **splits, **(about or {})}
        if options.volumes:
            summary["volume_samples"] = write_volumes(built.drafts, work)
        _write(work, built, summary)
        if out.is_dir():
            out.rmdir()
        os.replace(work, out)
        return summary


@contextmanager
def building(out: Path) -> Iterator[None]:
    """Keep other processes from building at `out`, which is free.

    Raises:
        RunError: if another process builds there.
        InputError: if `out` holds something.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f"{out.name}.building.lock")
    with locked(lock, f"{out} is being built by another process", "wait for it, or give another folder"):
        try:
            refuse_existing(out)
            yield
        finally:
            lock.unlink(missing_ok=True)


def refuse_existing(out: Path) -> None:
    """Refuse to write over anything at `out`.

    Raises:
        InputError: if there is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} already holds something", hint="give another --out, or remove it first")


def _split(drafts: Sequence[Draft], options: Options) -> dict[str, Any]:
    """Set the split of every draft; return what ``build.json`` states about it."""
    owners = [draft.owners for draft in drafts]
    groups = leakage_groups(owners, [draft.fingerprint for draft in drafts], near=options.near_duplicates)
    for draft, first in zip(drafts, joined(owners), strict=True):
        draft.line["group"] = pseudonym(drafts[first].owners["source"])
    stated = [draft.stated_split for draft in drafts]
    keep = options.splits == "keep" or (options.splits == "auto" and all(stated))
    if keep:
        unnamed = sum(not split for split in stated)
        unknown = sorted({split for split in stated if split} - set(SPLITS))
        if unnamed or unknown:
            why = f"{unnamed} samples state none" if unnamed else f"the source calls one {unknown[0]!r}"
            raise InputError(
                f"the source's splits cannot be kept: {why}",
                hint="--splits make" if unnamed else did_you_mean(unknown[0], SPLITS),
            )
        splits = [str(split) for split in stated]
    else:
        strata = [(draft.line.get("modality"), draft.line.get("category")) for draft in drafts]
        splits = assign(groups, strata, options.fractions, seed=options.seed)
    for draft, split in zip(drafts, splits, strict=True):
        draft.line["split"] = split
    return {
        "splits_kept": keep,
        "splits_replaced": 0 if keep else sum(map(bool, stated)),
        "groups": len(set(groups)),
        "leaking_groups": leaking_groups(groups, splits),
    }


def _summary(built: Drafts, options: Options) -> dict[str, Any]:
    return {
        "medground": medground.__version__,
        "options": {**asdict(options), "fractions": dict(options.fractions)},
        "cases": built.sources,
        "samples": len(built.drafts),
        "targets": dict(Counter(_how_many(draft.line) for draft in built.drafts)),
        "images": len({draft.line["image"] for draft in built.drafts}),
        "rejected": len(built.rejected),
        "findings": dict(sorted(Counter(finding.code for finding in built.findings).items())),
    }


def _how_many(line: Mapping[str, Any]) -> str:
    count = len(line["regions"]) if "regions" in line else 1
    return ("none", "one", "several")[min(count, 2)]


def _write(work: Path, built: Drafts, summary: dict[str, Any]) -> None:
    used = {draft.line[word] for draft in built.drafts for word in ("image", "mask") if word in draft.line}
    for folder in ("images", "masks"):
        for path in (work / folder).iterdir():
            if f"{folder}/{path.name}" not in used:
                path.unlink()
    order = ("id", "image", "mask", "question", "bbox_2d", "point_2d", "regions", "size", "split", "group")
    lines = [{**{key: draft.line[key] for key in order if key in draft.line}, **draft.line} for draft in built.drafts]
    _write_lines(work / "manifest.jsonl", lines)
    _write_lines(work / "rejected.jsonl", [{"where": one.where, "reason": one.reason} for one in built.rejected])
    _write_lines(work / "findings.jsonl", [asdict(finding) for finding in built.findings])
    summary["by_split"] = dict(sorted(Counter(str(line["split"]) for line in lines).items()))
    summary["digest"] = digest(work, lines)
    (work / "build.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def digest(folder: Path, lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 over a dataset's lines and the bytes of the images and masks they name."""
    total = hashlib.sha256()
    for line in lines:
        total.update(json.dumps(line, sort_keys=True).encode(errors="surrogatepass"))
    for name in sorted({str(line[key]) for line in lines for key in ("image", "mask") if key in line}):
        total.update(bytes.fromhex(sha256_file(folder / name)))
    return total.hexdigest()


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _first(rejected: Sequence[BadSample]) -> str:
    return f"the first: {rejected[0].where}: {rejected[0].reason}" if rejected else ""
