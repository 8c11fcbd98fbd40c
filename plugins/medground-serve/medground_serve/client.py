"""A client of ``medground serve``; copy this file, it needs nothing but Python."""

import json
import secrets
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

_OPENER = build_opener(ProxyHandler({}))


class ServeError(Exception):
    """A request that the server refused; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Asks a server.

    Args:
        address: as the server printed it, token included.
        timeout: seconds without news from the server.
    """

    def __init__(self, address: str, timeout: float = 300.0) -> None:
        self.url, _, self.token = address.partition("/#")
        self.timeout = timeout

    def ground(self, image: str | Path, question: str, **options: str | int) -> dict[str, Any]:
        """Return the answer about an image file; options: plane, slice, window, masks. Its ``image`` names the stored image."""
        boundary = secrets.token_hex(16)
        fields = {"question": question, **options}
        parts = [
            f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in fields.items()
        ]
        name = "image" + "".join(Path(image).suffixes[-2:])
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        parts.append(head + Path(image).read_bytes())
        body = (
            b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
        )
        return self._post("/ground", body, f"multipart/form-data; boundary={boundary}")

    def segment(self, image: str, **prompt: Any) -> dict[str, Any]:
        """Return one region of a stored image, drawn by the segmenter alone; prompt: box, points, labels, text."""
        return self._post("/segment", json.dumps({"image": image, **prompt}).encode(), "application/json")

    def _post(self, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        try:
            with _OPENER.open(Request(self.url + path, body, headers), timeout=self.timeout) as answer:
                return json.load(answer)  # type: ignore[no-any-return]
        except HTTPError as error:
            with error:
                raise ServeError(error.code, json.load(error)["error"]) from None
