"""Attack a server of the shipped recipe in full counts, on loopback, and say what became of it and of its memory.

    python benchmarks/serve_faults.py [--kills 50] [--malformed 20000] [--half-open 2000]

A killed worker, malformed multipart and JSON, half-open connections, an upload of 10 GB, files that unfold to far more than
they are: a line of JSON for each.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "medground-serve" / "tests"))
from attacks import PICTURE, QUESTION, bombs, endless_upload, fuzz, half_open, kill  # noqa: E402
from serving import Server, form  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--malformed", type=int, default=20_000)
    parser.add_argument("--half-open", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder=Path(folder)).wait_ready()
        server.ground(PICTURE, QUESTION)

        def say(what: str, begin: float, **figures: object) -> None:
            seconds, memory = round(time.perf_counter() - begin, 1), round(server.memory(), 1)
            print(json.dumps({"attack": what, **figures, "seconds": seconds, "server_mb": memory}), flush=True)

        begin = time.perf_counter()
        say("none", begin)
        seen = half_open(server, options.half_open)
        say("half-open connections", begin, count=options.half_open, **seen)
        begin = time.perf_counter()
        say("upload of 10 GB, chunked", begin, **endless_upload(server, 10**10))
        for what, (content, name) in bombs().items():
            begin = time.perf_counter()
            body, kind = form({"question": QUESTION, "plane": "axial", "slice": "0"}, content, name=name)
            status = server.request("POST", "/ground", body, Content_Type=kind)[0]
            say(what, begin, bytes=len(content), status=status, worker_peak_mb=server.memory(worker=True, peak=True))
        begin = time.perf_counter()
        statuses = Counter(kill(server)[0] for _ in range(options.kills))
        restarts = int(server.counter("medground_worker_restarts_total"))
        say("kill -9 of the worker", begin, statuses=statuses, restarts=restarts)
        begin = time.perf_counter()
        say("malformed requests", begin, statuses=fuzz(server, options.malformed, seed=1))
        after = server.ground(PICTURE, QUESTION)[0]
        log = server.log.read_text()
        print(json.dumps({"status_after": after, "exit_code": server.stop(), "tracebacks": log.count("Traceback")}))


if __name__ == "__main__":
    main()
