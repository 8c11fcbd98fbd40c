"""Run several requests at a time, none of which delays the end of the process."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_parallel(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> list[Result]:
    """Return ``work(job)`` for every job, in the order of the jobs; so many run at a time.

    What one of them raises, an interruption included, is raised at once: no other is started, and nobody waits for those
    that run. An executor would wait for them and their retries, and once more when the process ends.
    """
    waiting: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
    for pair in enumerate(jobs):
        waiting.put(pair)
    done: queue.SimpleQueue[tuple[int, Result | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work_off() -> None:
        while not stopped.is_set():
            try:
                index, job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, work(job), None))
            except BaseException as error:  # noqa: BLE001 handed to the caller's thread, which raises it
                stopped.set()
                done.put((index, None, error))

    for _ in range(min(workers, len(jobs))):
        threading.Thread(target=work_off, name="medground-openai", daemon=True).start()
    results: dict[int, Result] = {}
    try:
        while len(results) < len(jobs):
            index, result, error = done.get()
            if error is not None:
                raise error
            results[index] = result  # type: ignore[assignment]
    finally:
        stopped.set()
    return [results[index] for index in range(len(jobs))]
