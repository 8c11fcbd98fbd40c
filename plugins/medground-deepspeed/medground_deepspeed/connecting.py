"""The process group of the ranks, and the operator that DeepSpeed compiles for it."""

import importlib
import logging
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock

from medground.devices import declare_no_accelerator
from medground.errors import RunError

logger = logging.getLogger("medground.deepspeed")

LOST = ("onnection closed", "onnection reset", "onnection refused", "imed out", "Broken pipe", "NCCL", "abort")
"""Parts of the messages of communication libraries when a rank is gone."""


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
    with redirect_stdout(sys.stderr):  # DeepSpeed prints to stdout, where our results go
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


def disconnect() -> None:
    """Leave the group once every rank has come here."""
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turn the errors of communication libraries about a lost rank into one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        raise RunError(
            "another process of this run is gone",
            hint="add --resume to continue from the newest checkpoint",
        ) from error


def _alone_if_not_launched() -> None:
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
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
    """Compile, or load, the operator on one rank of a machine after the other: compiled twice at once it is damaged."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops import __compatible_ops__
    from torch.utils.cpp_extension import _get_build_directory, get_cxx_compiler, is_ninja_available

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not __compatible_ops__.get(builder.NAME, False):
        return
    if not (is_ninja_available() and shutil.which(get_cxx_compiler())):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            logger.warning("there is no C++ compiler with ninja here: ranks communicate through gloo, more slowly")
        backend.build_shm_op = _none
        return
    folder = Path(_get_build_directory(builder.name, verbose=False))
    with FileLock(folder / "medground.lock"):
        if not (folder / f"{builder.name}.so").exists():
            logger.info(
                "compiling DeepSpeed's communication operator, once on this machine; it takes a minute or two "
                "(engine.shared_memory=false goes without it)"
            )
        try:
            module = builder.load()
        except (RuntimeError, ImportError, OSError) as error:
            raise RunError(
                f"DeepSpeed's communication operator cannot be compiled or loaded: {str(error).strip().splitlines()[0]}",
                hint="set engine.shared_memory=false: ranks then communicate through gloo",
            ) from error
    backend.build_shm_op = lambda: module
