"""What a server is started with, and the sentences it refuses with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medground_serve.archive import Archive

PIXELS = 25_000_000
MOST_REGIONS = 9
"""Of a mask in viewers, which show labels by a list that they get before they ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server answers with, and its limits."""

    recipe: str
    """A recipe name, file or run folder."""
    overrides: tuple[str, ...] = ()
    compare: str = ""
    """The segmenter that masks are compared with; empty for none."""
    token: str
    """What every request except the page's own must carry."""
    hosts: frozenset[str]
    """The values of the Host header that are answered, without port, lower case."""
    most_waiting: int = 8
    """Requests that may wait for the worker; one more is refused."""
    most_bytes: int = 64_000_000
    """Of the body of a request."""
    most_images: int = 1000
    """Stored at once; the image that was not used for longest goes first."""
    most_pixels: int = PIXELS
    """Of an image."""
    most_stored: int = 512_000_000
    """Bytes of all stored images together; the image that was not used for longest goes first."""
    answer_seconds: float = 120.0
    """After which an answer is given up, and the worker is started again."""
    body_seconds: float = 60.0
    """In which the body of a request must arrive."""
    header_seconds: float = 10.0
    """In which the headers of a request must arrive; as long may a connection stay idle."""
    send_seconds: float = 30.0
    """In which a client must take some of what is sent to it."""
    session_seconds: float = 1800.0
    """After which an image that nobody asks about is deleted."""
    drain_seconds: int = 30
    """In which running requests may end after SIGTERM."""
    most_connections: int = 256
    """Connections at once. One more closes the one that has waited longest to send a request, or itself if none has."""
    archive: "Archive | None" = None
    """The DICOMweb server that series are fetched from."""
    ohif: Path | None = None
    """The folder of OHIF's build."""
    labels: Path | None = None
    """Where labels are saved that viewers send."""

    @property
    def most_received(self) -> int:
        """Bytes of the bodies of all requests that are not answered yet."""
        return 4 * self.most_bytes


@dataclass(eq=False)
class Refusal(Exception):
    """A request that is not answered as asked, in one sentence for people."""

    status: int
    error: str
    hint: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"error": self.error, "hint": self.hint or None}
