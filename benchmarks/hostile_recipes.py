"""Measure the time and memory that hostile recipes take, each in a process of its own.

python benchmarks/hostile_recipes.py
"""

import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "hostile_recipes.py"
SECONDS, MEGABYTES = 1.0, 200


def one(path: str) -> None:
    """Check one recipe; print seconds after imports and the peak memory of the process."""
    from medground.errors import RecipeError
    from medground.recipe import find_problems, resolve

    started = time.perf_counter()
    try:
        outcome = "problems" if find_problems(resolve(path)) else "accepted"
    except RecipeError as error:
        outcome = error.message
    seconds = time.perf_counter() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes, "outcome": outcome}))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary"
        paths = runpy.run_path(str(CORPUS))["write"](Path(folder), canary, "secret")
        rows = []
        for path in paths:
            command = [sys.executable, __file__, str(path)]
            result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
            rows.append({"recipe": path.stem, **json.loads(result.stdout)})
        executed = canary.exists()
    for row in sorted(rows, key=lambda row: -row["seconds"]):
        print(f"{row['recipe']:<22} {row['seconds']:6.3f} s  {row['megabytes']:4.0f} MB  {row['outcome'][:90]}")
    slowest, largest = max(row["seconds"] for row in rows), max(row["megabytes"] for row in rows)
    accepted = sum(row["outcome"] == "accepted" for row in rows)
    print(
        f"{len(rows)} recipes: {accepted} accepted, {int(executed)} executions, slowest {slowest:.3f} s (bound", end=""
    )
    print(f" {SECONDS}), largest {largest:.0f} MB (bound {MEGABYTES})")
    return int(executed or accepted > 0 or slowest > SECONDS or largest > MEGABYTES)


if __name__ == "__main__":
    sys.exit(one(sys.argv[1]) if len(sys.argv) > 1 else main())
