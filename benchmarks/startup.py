"""Measure the start of `medground --help`, `import medground` and others, beside a bare interpreter.

    python benchmarks/startup.py [--runs 15]

Prints the median and range of whole processes, and the number of modules that they load. On an idle machine: --help within
0.3 s, `import medground` within 0.15 s.
"""

import argparse
import statistics
import subprocess
import sys
import time

CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "import medground": [sys.executable, "-c", "import medground"],
    "medground --help": [sys.executable, "-m", "medground", "--help"],
    "medground plugins list": [sys.executable, "-m", "medground", "plugins", "list"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def loaded(code: str) -> int:
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(len(sys.modules))"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    measured: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(runs):  # in turn, so that a drift of the machine meets all of them
        for name, command in CASES.items():
            measured[name].append(seconds(command))
    for name, times in measured.items():
        print(f"{name:<24} median {statistics.median(times):.3f} s   {min(times):.3f} to {max(times):.3f}   n={runs}")
    print(f"modules loaded: bare {loaded('')}, import medground {loaded('import medground')}")


if __name__ == "__main__":
    main()
