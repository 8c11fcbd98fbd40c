"""Several requests under way at a time, none of which can hold up the end of the process."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def each(work: Callable[[Job], Result], jobs: Sequence[Job], at_a_time: int) -> list[Result]:
    """``work(job)`` for every job, in any order of completion; the results in the order of the jobs.

    Whatever one of them raises, an interruption included, is raised at once: no other is started, and those under way
    are left behind. An executor would wait for them, retries and all, and once more when the process ends.
    """
    todo: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
    for pair in enumerate(jobs):
        todo.put(pair)
    done: queue.SimpleQueue[tuple[int, Result | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            try:
                place, job = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((place, work(job), None))
            except BaseException as error:  # noqa: BLE001 handed to the caller's thread, which raises it
                stopped.set()
                done.put((place, None, error))

    for _ in range(min(at_a_time, len(jobs))):
        threading.Thread(target=serve, name="medground-openai", daemon=True).start()
    results: dict[int, Result] = {}
    try:
        while len(results) < len(jobs):
            place, result, error = done.get()
            if error is not None:
                raise error
            results[place] = result  # type: ignore[assignment]
    finally:
        stopped.set()
    return [results[place] for place in range(len(jobs))]
