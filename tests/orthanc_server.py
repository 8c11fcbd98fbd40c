"""Debian's Orthanc as an archive: its own storage, one user, loopback alone."""

import json
import shutil
import socket
import subprocess
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


class Orthanc:
    """An Orthanc, which skips the test where there is none.

    Args:
        folder: empty.
        dicomweb: answer DICOMweb below /dicom-web, too.
    """

    user, password = "reader", "a secret of the test"

    def __init__(self, folder: Path, *, dicomweb: bool = False) -> None:
        if shutil.which("Orthanc") is None or (dicomweb and not PLUGIN.exists()):
            pytest.skip("needs an archive: apt-get install orthanc orthanc-dicomweb")
        port = free_port()
        self.root = f"http://127.0.0.1:{port}"
        settings = {
            "HttpPort": port, "RemoteAccessAllowed": False, "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)] if dicomweb else [],
            "AuthenticationEnabled": True, "RegisteredUsers": {self.user: self.password},
            "StorageDirectory": str(folder / "store"), "IndexDirectory": str(folder / "store"),
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        log = ""
        for line in self.process.stderr:
            log += line
            if "Orthanc has started" in line:
                return
        pytest.fail("Orthanc ended: " + log)

    def ask(self, path: str, data: bytes | None = None) -> bytes:
        """Return what its own interface answers."""
        login = b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(self.root + path, data, {"Authorization": f"Basic {login}"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return bytes(response.read())

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)
