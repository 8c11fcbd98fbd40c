"""Do the tests notice a fault? Draw mutations of the modules that carry promises, run the tests of each, list what survives.

    make mutants                                     400 mutations of all areas, with a result file in benchmarks/
    python benchmarks/mutants.py --areas loss,step   those of some areas alone

The library cosmic-ray makes the mutations; SEED draws an equal number for every area. A mutation of annotations, decorators or
documentation alone is not drawn. Each runs in a copy of the working tree without the shared folder of real images, so that only
what a clone holds can notice it: the fast tests in the files named here for its area, up to the first failure. That they fail,
crash, or take several times as long as without a mutation counts as noticed. `mutants_equivalent.toml` strikes mutations that
change nothing a test could see, with a reason each.
"""

import argparse
import ast
import contextlib
import datetime
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.toml")
SEED = 20261126
COUNT = 400
GOAL = 0.9
NO_CHANGE = frozenset(
    f"ReplaceComparisonOperator_{one}_{other}"
    for pair in (("Eq", "Is"), ("NotEq", "IsNot"))
    for one, other in (pair, pair[::-1])
)
"""Operators that are not used: of small numbers, words and None, equality and identity are the same."""
HEAVY = (
    "numpy",
    "scipy.stats",
    "PIL.Image",
    "torch",
    "transformers",
    "hypothesis",
    "pytest",
    "nibabel",
    "pydicom",
    "rich",
)
"""Imported once, before the processes that run the tests are forked."""
IMPORTED_EARLY = "ignore::pytest.PytestAssertRewriteWarning"
AREAS: dict[str, tuple[list[str], list[str]]] = {
    "loss": (["medground/training/grpo/loss.py"], ["tests/test_grpo_loss.py", "tests/test_grpo_math.py"]),
    "advantage": (["medground/training/grpo/advantage.py"], ["tests/test_grpo_math.py"]),
    "step": (
        ["medground/training/grpo/step.py", "medground/training/grpo/rollouts.py", "medground/training/grpo/batch.py"],
        ["tests/test_grpo_step.py", "tests/test_train_step.py", "tests/test_ranks.py"],
    ),
    "schedule": (["medground/training/schedule.py"], ["tests/test_schedule.py"]),
    "checkpoint": (
        ["medground/runs/checkpoint.py", "medground/runs/files.py"],
        ["tests/test_checkpoint.py", "tests/test_files.py"],
    ),
    "statistics": (["medground/evaluation/statistics.py"], ["tests/test_statistics.py"]),
    "metrics": (
        ["medground/evaluation/metrics.py", "medground/evaluation/surface.py", "medground/evaluation/compat.py"],
        ["tests/test_metrics.py"],
    ),
    "parsers": (
        [
            "plugins/medground-prompts/medground_prompts/parsers.py",
            "plugins/medground-prompts/medground_prompts/reading.py",
        ],
        ["plugins/medground-prompts/tests"],
    ),
    "frames": (["medground/frames.py", "medground/geometry.py"], ["tests/test_frames.py", "tests/test_geometry.py"]),
    "dicom": (
        [
            "medground/images/dicom.py",
            "medground/images/dicom_pixels.py",
            "medground/images/dicom_grey.py",
            "medground/images/dicom_tables.py",
            "medground/images/dicom_seg.py",
        ],
        [
            "tests/test_dicom.py",
            "tests/test_dicom_values.py",
            "tests/test_dicom_streams.py",
            "tests/test_dicom_seg.py",
            "tests/test_dicom_corpus.py",
        ],
    ),
    "nifti": (
        ["medground/images/nifti.py", "medground/images/nifti_header.py"],
        ["tests/test_nifti.py", "tests/test_nifti_headers.py"],
    ),
    "masks": (
        [
            "medground/images/pictures.py",
            "medground/images/mask_values.py",
            "medground/images/codings.py",
            "medground/images/mask_frames.py",
            "medground/images/rle.py",
        ],
        ["tests/test_images.py", "tests/test_mask_values.py", "tests/test_mask_frames.py", "tests/test_bad_images.py"],
    ),
    "manifest": (
        [
            "medground/data/manifest.py",
            "medground/data/json_text.py",
            "medground/data/splits.py",
            "medground/data/manifest_dataset.py",
        ],
        [
            "tests/test_manifest.py",
            "tests/test_samples.py",
            "tests/test_splits.py",
            "tests/test_truth.py",
            "tests/test_mask_values.py",
        ],
    ),
    "weights": (
        [
            "medground/segmenters/weights.py",
            "medground/segmenters/pickled.py",
            "medground/segmenters/weight_files.py",
        ],
        ["tests/test_weights.py", "tests/test_crafted_weights.py"],
    ),
}
"""Area -> the modules that are mutated, and the test files that run; the doctests of the modules run too."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one module."""

    area: str
    path: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str
    """The first line that differs, without its indentation."""


def draw(area: str, count: int) -> list[tuple[Mutation, str]]:
    """Return that many mutations at different places of an area's modules, with the module's text then."""
    chance = random.Random(f"{SEED}/{area}")
    places = [(path, place) for path in AREAS[area][0] for place in _places(path).items()]
    chance.shuffle(places)
    drawn: list[tuple[Mutation, str]] = []
    for path, (_, choices) in places:
        operator, occurrence = chance.choice(choices)
        text = (ROOT / path).read_text(encoding="utf-8")
        mutated = _mutated(text, operator, occurrence)
        if _code(mutated) not in (None, _code(text)):
            drawn.append((Mutation(area, path, operator, occurrence, *_difference(text, mutated)), mutated))
        if len(drawn) == count:
            break
    return drawn


def _places(path: str) -> dict[tuple[Any, Any], list[tuple[str, int]]]:
    """Return every place of a module that can be mutated -> the operators, each with the number of its occurrence."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast((ROOT / path).read_text(encoding="utf-8"))))
    places: dict[tuple[Any, Any], list[tuple[str, int]]] = {}
    for name in sorted(operator_names()):
        if get_operator(name).arguments() or name.rpartition("/")[2] in NO_CHANGE:
            continue
        positions = [position for node in nodes for position in get_operator(name)().mutation_positions(node)]
        for occurrence, position in enumerate(positions):
            places.setdefault(position, []).append((name, occurrence))
    return dict(sorted(places.items()))


def _mutated(text: str, operator: str, occurrence: int) -> str:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return str(mutate_code(text, get_operator(operator)(), occurrence))


class _Bare(ast.NodeTransformer):
    """Takes annotations, decorators and strings that stand alone out of a module."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns, node.decorator_list = None, []
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = []
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)


def _code(text: str) -> str | None:
    """Return what a module does, to be compared; None where it is no Python."""
    try:
        return ast.dump(_Bare().visit(ast.parse(text)))
    except SyntaxError:
        return None


def _difference(text: str, mutated: str) -> tuple[int, str, str]:
    pairs = zip(text.splitlines(), mutated.splitlines(), strict=False)
    line, (before, after) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return line, before.strip(), after.strip()


def copy_tree(to: Path) -> Path:
    """Copy what a clone of the working tree would hold; return its folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)
    return to


class Trials:
    """Runs tests in a copy of the tree, in a fresh fork each time.

    Args:
        tree: the copy.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.limits: dict[str, float] = {}
        """Area -> the seconds that its tests may take."""
        os.chdir(tree)
        paths = [str(tree), *map(str, sorted((tree / "plugins").iterdir()))]
        sys.path[:0] = paths
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        os.environ["MEDGROUND_SHARED"] = str(tree / "absent")
        for module in HEAVY:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)

    def baseline(self, area: str) -> None:
        """Run the tests of an area without a mutation.

        Raises:
            SystemExit: if they fail.
        """
        begun = time.monotonic()
        if self._run(area, 900.0) != "passed":
            sys.exit(f"the tests of {area} do not pass without a mutation")
        self.limits[area] = 30.0 + 4 * (time.monotonic() - begun)

    def try_out(self, mutation: Mutation, mutated: str) -> str:
        """Return ``noticed``, ``timeout`` or ``survived``."""
        if mutation.area not in self.limits:
            self.baseline(mutation.area)
        path = self.tree / mutation.path
        text = path.read_text(encoding="utf-8")
        path.write_text(mutated, encoding="utf-8")
        try:
            outcome = self._run(mutation.area, self.limits[mutation.area])
        finally:
            path.write_text(text, encoding="utf-8")
        return {"passed": "survived", "failed": "noticed"}.get(outcome, outcome)

    def _run(self, area: str, seconds: float) -> str:
        modules, tests = AREAS[area]
        child = multiprocessing.get_context("fork").Process(target=_tests, args=([*modules, *tests],))
        child.start()
        child.join(seconds)
        late = child.is_alive()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid or 0, signal.SIGKILL)  # with what it started
        child.join()
        return "timeout" if late else "failed" if child.exitcode else "passed"


def _tests(files: list[str]) -> None:
    """Run tests in this process, a fork of its own group, and end it with pytest's exit code."""
    os.setsid()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    import pytest

    fast = "not slow and not soak and not gpu and not vllm"
    code = pytest.main([*files, "-xq", "-p", "no:cacheprovider", "-W", IMPORTED_EARLY, "-m", fast])
    import medground

    if not str(medground.__file__).startswith(os.getcwd()):
        os._exit(0)  # the copy was not what was tested
    os._exit(int(code))


def _work(number: int, jobs: int, drawn: list[tuple[Mutation, str]], log: Path) -> None:
    """Try out a share of the mutations; append a line each to the log."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trials = Trials(copy_tree(Path(folder, "medground")))
        for mutation, mutated in drawn[number::jobs]:
            outcome = trials.try_out(mutation, mutated)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**asdict(mutation), "outcome": outcome}) + "\n")
            sys.stderr.write(f"{outcome:<9} {mutation.path}:{mutation.line}  {mutation.after}\n")
        os.chdir(ROOT)


def report(lines: list[dict[str, Any]]) -> tuple[str, bool]:
    """Return the result as Markdown, and whether the goal is met."""
    reasons = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]
    struck = {(item["path"], item["before"], item["after"]): item["reason"] for item in reasons}
    key = {id(line): (line["path"], line["before"], line["after"]) for line in lines}
    equivalent = [line for line in lines if line["outcome"] == "survived" and key[id(line)] in struck]
    survived = [line for line in lines if line["outcome"] == "survived" and key[id(line)] not in struck]
    counted = len(lines) - len(equivalent)
    noticed = counted - len(survived)
    share, share_struck = noticed / max(1, counted), len(equivalent) / max(1, len(lines))
    rows = []
    for area in dict.fromkeys(line["area"] for line in lines):
        of_area = [line for line in lines if line["area"] == area]
        outcomes = Counter(line["outcome"] for line in of_area)
        left = sum(line in survived for line in of_area)
        rows.append(
            f"| {area} | {len(of_area)} | {outcomes['noticed'] + outcomes['timeout']} | {outcomes['timeout']} | "
            f"{outcomes['survived'] - left} | {left} |"
        )
    text = [
        f"# Mutations, {datetime.date.today()}",
        "",
        f"cosmic-ray, seed {SEED}: {len(lines)} mutations, {len(equivalent)} struck as equivalent ({share_struck:.1%}), "
        f"{noticed} of {counted} noticed by the fast tests of their area on a bare clone ({share:.1%}; goal {GOAL:.0%}).",
        "`python benchmarks/mutants.py` repeats it; it says in its first lines what counts.",
        "",
        "| area | drawn | noticed | of these by time | equivalent | survived |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "## Survivors",
        "",
        *[f"- {line['path']}:{line['line']}: `{line['before']}` -> `{line['after']}`" for line in survived],
        "",
        "## Struck as equivalent",
        "",
        *[f"- {line['path']}:{line['line']}: `{line['before']}` -> `{line['after']}`: {struck[key[id(line)]]}"
          for line in equivalent],
        "",
    ]  # fmt: skip
    return "\n".join(text), share >= GOAL and share_struck <= 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--areas", default=",".join(AREAS), help="separated by commas; all without")
    parser.add_argument("--count", type=int, default=COUNT, help="mutations of all areas together")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="the result file; benchmarks/mutants_DATE.md without")
    parser.add_argument(
        "--log", type=Path, help="takes the outcomes as they come; what it holds is not tried out again"
    )
    chosen = parser.parse_args()
    per_area = -(-chosen.count // len(AREAS))
    drawn = [item for area in chosen.areas.split(",") for item in draw(area, per_area)][: chosen.count]
    with tempfile.TemporaryDirectory() as folder:
        log = chosen.log or Path(folder, "outcomes.jsonl")
        log.touch()
        left = [(mutation, mutated) for mutation, mutated in drawn if mutation not in _outcomes(log)]
        sys.stderr.write(f"{len(drawn)} mutations, {len(left)} to try out\n")
        jobs = [multiprocessing.Process(target=_work, args=(job, chosen.jobs, left, log)) for job in range(chosen.jobs)]
        for process in jobs:
            process.start()
        for process in jobs:
            process.join()
        outcomes = _outcomes(log)
    if any(process.exitcode for process in jobs):
        sys.exit("not all mutations were tried out")
    text, good = report([{**asdict(mutation), "outcome": outcomes[mutation]} for mutation, _ in drawn])
    out = chosen.out or ROOT / "benchmarks" / f"mutants_{datetime.date.today()}.md"
    out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    sys.exit(not good)


def _outcomes(log: Path) -> dict[Mutation, str]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {
        Mutation(**{key: value for key, value in line.items() if key != "outcome"}): line["outcome"] for line in lines
    }


if __name__ == "__main__":
    main()
