"""How ranks find one another: the process group, and the operator that DeepSpeed compiles for it."""

import fcntl
import importlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

from medground.errors import RunError
from medground.training.launcher import declare_no_accelerator

LOST = ("onnection closed", "onnection reset", "onnection refused", "imed out", "Broken pipe", "NCCL", "abort")
"""What communication libraries say when a rank is gone."""


def connect(*, processes: int | None, shared_memory: bool, timeout_minutes: float) -> tuple[int, int]:
    """Join the other ranks; return this rank and how many there are.

    Raises:
        RunError: if another number of processes was started than the recipe says.
    """
    world = int(os.environ.get("WORLD_SIZE") or 1)
    if processes is not None and processes != world:
        raise RunError(
            f"engine.processes is {processes}, and {world} process{'es were' if world > 1 else ' was'} started",
            hint="medground train starts them; with another launcher leave engine.processes out",
        )
    _alone_if_not_launched()
    import torch

    declare_no_accelerator()
    with redirect_stdout(sys.stderr):  # DeepSpeed speaks on stdout, where our results go
        import deepspeed

        backend = importlib.import_module("deepspeed.comm.torch")  # its package has another "torch" of that name
        deepspeed.logger.setLevel("WARNING")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not shared_memory:
            backend.build_shm_op = _none
        elif not torch.cuda.is_available():
            _compile_once(backend)
        deepspeed.init_distributed(timeout=timedelta(minutes=timeout_minutes), verbose=False, auto_mpi_discovery=False)
    return int(os.environ["RANK"]), world


def part() -> None:
    """Leave the group once every rank has come here."""
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Within, the loss of another rank is told as such."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        raise RunError(
            "another process of this run is gone",
            hint="the newest checkpoint is whole: add --resume to continue from it",
        ) from error


def _alone_if_not_launched() -> None:
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _none() -> None:
    return None


def _compile_once(backend: Any) -> None:
    """Compile, or load, the operator one rank of a machine after the other: two that compile it at once spoil it."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops import __compatible_ops__
    from torch.utils.cpp_extension import _get_build_directory, get_cxx_compiler, is_ninja_available

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not __compatible_ops__.get(builder.NAME, False):
        return
    if not (is_ninja_available() and shutil.which(get_cxx_compiler())):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _say("there is no C++ compiler with ninja here: ranks talk through gloo, more slowly")
        backend.build_shm_op = _none
        return
    folder = Path(_get_build_directory(builder.name, verbose=False))
    with (folder / "medground.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / f"{builder.name}.so").exists():
            _say(
                "compiling DeepSpeed's communication operator, once on this machine; it takes a minute or two "
                "(engine.shared_memory=false goes without it)"
            )
        try:
            module = builder.load()
        except (RuntimeError, ImportError, OSError) as error:
            raise RunError(
                f"DeepSpeed's communication operator cannot be compiled or loaded: {str(error).strip().splitlines()[0]}",
                hint="set engine.shared_memory=false: ranks then talk through gloo",
            ) from error
    backend.build_shm_op = lambda: module


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
