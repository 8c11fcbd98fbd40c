"""How weights get to a server: through a folder both sides see, or from device to device by NCCL."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from medground.errors import RecipeError
from medground_vllm import api
from medground_vllm.rollout import Route

SHARD = 4 << 30
"""Bytes of tensors held on the host at a time."""


class Service(Protocol):
    """What a transfer needs of the server's routes."""

    base_url: str
    timeout: float

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON, return what comes back."""

    def get(self, path: str) -> Any:
        """Get JSON."""


class Disk:
    """Rank 0 writes safetensors, the server reloads them. Works wherever both sides see one folder.

    Args:
        http: the server's routes.
        folder: exists under the same path on both sides.
    """

    route: Route = "reload"

    def __init__(self, http: Service, folder: str | None) -> None:
        if folder is None:
            raise RecipeError("weights reach the server through a folder", hint="set rollout.folder, or transfer=nccl")
        self.http, self.folder = http, Path(folder).expanduser().resolve()
        self.before: Path | None = None

    def __call__(self, weights: Iterator[tuple[str, Any]], version: str, rank: int) -> None:
        """Send all weights and name them."""
        folder = self.folder / f"weights-{version}"
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for number, shard in enumerate(_shards(weights, keep=rank == 0), 1):
            _save(shard, folder / f"model-{number:05}.safetensors")
        if rank == 0:
            self.http.post("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
            self.http.post("update_weight_version", {"new_version": version})
            if self.before not in (None, folder):
                shutil.rmtree(self.before, ignore_errors=True)
            self.before = folder

    def close(self) -> None:
        """Remove what was written last."""
        if self.before is not None:
            shutil.rmtree(self.before, ignore_errors=True)


class Nccl:
    """Rank 0 broadcasts to the server's workers; every rank takes part in gathering what is sent.

    Args:
        http: the server's routes.
        address: this side's, as the server reaches it.
        port: free on this side.
    """

    route: Route = "transfer"

    def __init__(self, http: Service, address: str, port: int) -> None:
        api.require()
        self.http, self.address, self.port = http, address, port
        self.source: Any = None
        self.sender: Any = None

    def __call__(self, weights: Iterator[tuple[str, Any]], version: str, rank: int) -> None:
        """Send all weights and name them; the first time they are held in full, to learn their shapes."""
        if self.sender is None:
            self.source = api.stream(list(weights))
            workers = int(self.http.get("get_world_size")["world_size"])
            self.sender = api.sender(
                self.http.base_url, self.address, self.port,
                workers=workers, rank=rank, source=self.source, timeout=self.http.timeout,
            )  # fmt: skip
        else:
            self.source.now = weights
        self.sender.send_weights()
        self.source.now = ()
        if rank == 0:
            self.http.post("update_weight_version", {"new_version": version})

    def close(self) -> None:
        """Leave the group."""
        if self.sender is not None:
            self.sender.shutdown()


def _shards(weights: Iterable[tuple[str, Any]], *, keep: bool) -> Iterator[dict[str, Any]]:
    """Yield the stream in shards that fit on the host; ranks that keep nothing read it to its end too: all gather together."""
    shard: dict[str, Any] = {}
    size = 0
    for name, tensor in weights:
        if not keep:
            continue
        shard[name] = tensor.cpu()
        size += tensor.numel() * tensor.element_size()
        if size >= SHARD:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def _save(tensors: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
