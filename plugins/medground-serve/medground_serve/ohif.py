"""OHIF on this server's origin: its files, a configuration of ours, and the page that gives the browser its cookie.

OHIF is not part of medground: the folder is the build inside MONAI Label's wheel, ``monailabel/endpoints/static/ohif``.
"""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from medground.errors import UsageError

VIEWER = Path(__file__).with_name("viewer")
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self' blob: data:; worker-src 'self' blob: data:; manifest-src 'self'; "
    "font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of OHIF's pages: as ours, but with the inline scripts and styles of its build."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that does not hold OHIF's build.

    Raises:
        UsageError: if it does not.
    """
    if not (folder / "index.html").is_file() or not (folder / "app-config.js").is_file():
        raise UsageError(
            "--ohif is not the folder of OHIF's build",
            hint="run pip download --no-deps monailabel==0.8.5, unzip the wheel, and give monailabel/endpoints/static/ohif",
        )


def add(app: FastAPI, folder: Path) -> None:
    """Add the routes.

    Args:
        app: the application.
        folder: of OHIF's build.
    """
    folder = folder.resolve()

    @app.get("/viewer", include_in_schema=False)
    async def entry() -> FileResponse:
        return FileResponse(VIEWER / "index.html")

    @app.get("/viewer.js", include_in_schema=False)
    async def script() -> FileResponse:
        return FileResponse(VIEWER / "viewer.js")

    @app.get("/ohif/app-config.js", include_in_schema=False)
    async def config() -> FileResponse:
        return FileResponse(VIEWER / "app-config.js")

    @app.get("/ohif/{path:path}", include_in_schema=False)
    def static(path: str) -> FileResponse:
        try:
            file = (folder / path).resolve()
            if file.is_relative_to(folder) and file.is_file():
                return FileResponse(file)
        except (OSError, ValueError):  # a name that no file can have
            raise HTTPException(404) from None
        if Path(path).suffix:  # a script that is missing must not be a page
            raise HTTPException(404)
        return FileResponse(folder / "index.html")
