"""Counters in the text format of Prometheus."""

from collections import Counter
from collections.abc import Iterable

Sample = tuple[dict[str, str], float]


class Metrics:
    """Requests by method, route and status, and the time they took."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: Counter[str] = Counter()

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; a status of 0 is that of a client that left."""
        self._requests[method, route, status] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]

    def text(self, values: dict[str, tuple[str, str, float]]) -> str:
        """Return all counters.

        Args:
            values: more of them: name -> (type, what it is, value).
        """
        requests = [
            ({"method": method, "route": route, "status": str(status)}, float(number))
            for (method, route, status), number in sorted(self._requests.items())
        ]
        seconds = [({"route": route}, float(total)) for route, total in sorted(self._seconds.items())]
        blocks = [
            _block("medground_requests_total", "counter", "Requests answered.", requests),
            _block("medground_request_seconds_total", "counter", "Time from the headers to the answer, s.", seconds),
            *(_block(name, kind, meaning, [({}, value)]) for name, (kind, meaning, value) in values.items()),
        ]
        return "".join(blocks)


def _block(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        words = ",".join(f'{key}="{text}"' for key, text in labels.items())
        lines.append(f"{name}{{{words}}} {value:g}" if words else f"{name} {value:g}")
    return "\n".join(lines) + "\n"
