"""The application: routes, and what they hand to the worker."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from medground.report import STATEMENT
from medground_serve import access, chat, monailabel, ohif, proxy, series
from medground_serve.dicomweb import DicomWeb
from medground_serve.events import event_stream
from medground_serve.guard import App, Guard, log
from medground_serve.metrics import Metrics
from medground_serve.settings import Refusal, Settings
from medground_serve.store import ImageStore
from medground_serve.uploads import put_uploads
from medground_serve.waiting import until_gone
from medground_serve.worker import Worker

PAGE = Path(__file__).with_name("page")
FILES = frozenset(path.name for path in PAGE.iterdir())
EXPIRE_SECONDS = 30.0
MOST_JSON = 100_000
"""Bytes of a request that holds no image."""
Masks = Literal["rle", "png", "none"]
Plane = Annotated[str | None, Form(max_length=20, description="Of a NIfTI volume: axial, coronal or sagittal.")]
Slice = Annotated[int | None, Form(ge=0, description="Of a volume or a film, from 0.")]
Window = Annotated[str | None, Form(max_length=40, description="Of DICOM and NIfTI, by name or CENTRE,WIDTH.")]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class SegmentRequest(BaseModel):
    """What is segmented: a box, clicks, a text, or several of these, in pixels of the image."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(max_length=64, description="As /images and /ground name it.")
    box: tuple[Number, Number, Number, Number] | None = Field(None, description="x1, y1, x2, y2")
    points: list[tuple[Number, Number]] = Field([], max_length=64, description="x, y")
    labels: list[Literal[0, 1]] = Field([], max_length=64, description="Per point: 1 inside, 0 outside; default 1.")
    text: str = Field("", max_length=200, description="What to look for, where the segmenter reads texts.")
    plane: str | None = Field(None, max_length=20)
    slice: int | None = Field(None, ge=0)
    window: str | None = Field(None, max_length=40)
    masks: Masks = "rle"
    compare: bool = Field(False, description="Let the second segmenter draw too: the result has `compared`.")


class DrawnMask(BaseModel):
    """A mask of the image as it is shown: a PNG in base64, of its size, black outside."""

    png: str
    label: str = Field("", max_length=200)


class ExportRequest(BaseModel):
    """Masks that become a file in the geometry of their image."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(max_length=64, description="As /images and /ground name it.")
    plane: str | None = Field(None, max_length=20)
    slice: int | None = Field(None, ge=0)
    format: Literal["nifti", "seg"]
    masks: list[DrawnMask] = Field(min_length=1, max_length=64)


def build(settings: Settings, worker: Worker, store: ImageStore) -> App:
    """Return the application, guarded."""
    metrics = Metrics()
    app = _routes(settings, worker, store, metrics)
    return Guard(app, settings, metrics)


def describe() -> dict[str, Any]:
    """Return the OpenAPI description of the interface."""
    settings = Settings(recipe="", token="", hosts=frozenset())
    worker = Worker(settings, lambda error: None)
    return _routes(settings, worker, ImageStore(Path(), most_bytes=0, most_images=0, seconds=0), Metrics()).openapi()


def _routes(settings: Settings, worker: Worker, store: ImageStore, metrics: Metrics) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(_say)
        worker.start()
        expiring = asyncio.create_task(_expire(store))
        yield
        expiring.cancel()
        worker.stop()

    app = FastAPI(
        title="medground",
        description=STATEMENT,
        lifespan=lifespan,
        max_body_size=settings.most_bytes,
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    _states(app, settings, worker, store, metrics)
    _images(app, worker, store)
    _answers(app, worker, store)
    chat.add(app, worker)
    access.add(app, settings.token)
    _viewers(app, settings, worker, store)
    return app


def _viewers(app: FastAPI, settings: Settings, worker: Worker, store: ImageStore) -> None:
    web = None if settings.archive is None else DicomWeb(settings.archive, settings.answer_seconds)
    volumes = series.Volumes(worker, store, web)
    series.add(app, volumes)
    proxy.add(app, volumes)
    router = APIRouter()
    monailabel.add(router, settings, volumes)
    app.include_router(router, prefix="/monailabel", tags=["MONAI Label"])
    if settings.ohif is not None:
        ohif.add(app, settings.ohif)


def _states(app: FastAPI, settings: Settings, worker: Worker, store: ImageStore, metrics: Metrics) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(PAGE / name)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Say whether the models are loaded: 200 or 503."""
        return JSONResponse({"ready": worker.ready}, 200 if worker.ready else 503)

    @app.get("/info")
    async def info() -> dict[str, Any]:
        """Return the recipe, its components, the prompts that the segmenter takes, and the limits."""
        limits = {"bytes": settings.most_bytes, "pixels": settings.most_pixels, "waiting": settings.most_waiting}
        return {"recipe": Path(settings.recipe).name, "limits": limits, "statement": STATEMENT, **(worker.facts or {})}

    @app.get("/metrics")
    async def counters() -> Response:
        """Return counters in the text format of Prometheus."""
        values = {
            "medground_ready": ("gauge", "1 if the models are loaded.", float(worker.ready)),
            "medground_pending": ("gauge", "Requests that wait or are answered.", worker.pending),
            "medground_worker_restarts_total": ("counter", "Starts of the worker after the first.", worker.restarts),
            "medground_cancelled_total": ("counter", "Requests given up before their answer.", worker.cancelled),
            "medground_encodes_total": ("counter", "Images encoded by the segmenter.", worker.encodes),
            "medground_images": ("gauge", "Images stored.", len(store)),
            "medground_image_bytes": ("gauge", "Bytes of images stored.", store.bytes),
        }
        return Response(metrics.text(values), media_type="text/plain; version=0.0.4; charset=utf-8")


def _images(app: FastAPI, worker: Worker, store: ImageStore) -> None:
    @app.post("/images", status_code=201)
    async def upload(file: Annotated[list[UploadFile], File(min_length=1)]) -> dict[str, str]:
        """Store an image, or the files of a DICOM series; return its identifier, which the other requests take."""
        return {"image": await put_uploads(store, *file)}

    @app.get("/images/{image}")
    async def show(
        request: Request, image: str, plane: str | None = None, slice: int | None = None, window: str | None = None
    ) -> Response:
        """Return an image as it is shown to the models: kind, size (H, W), spacing in mm, and a PNG in base64.

        Without plane and slice it also says what there is to choose (slices of each plane or frames, and in which formats a
        mask can be written, else why not); of a volume it shows the middle slice.
        """
        view = {"plane": plane, "slice": slice, "window": window}
        job = {"do": "open", "image": image, "path": str(store.path(image)), **view}
        return await _json(request, worker.ask(job))

    @app.delete("/images/{image}", status_code=204)
    async def delete(image: str) -> None:
        """Delete an image now."""
        store.delete(image)


def _answers(app: FastAPI, worker: Worker, store: ImageStore) -> None:
    @app.post("/ground")
    async def ground(
        request: Request,
        question: Annotated[str, Form(min_length=1, max_length=2000)],
        image: Annotated[str | None, Form(max_length=64, description="A stored image, in place of a file.")] = None,
        file: Annotated[UploadFile | None, File(description="An image, which is stored.")] = None,
        plane: Plane = None,
        slice: Slice = None,
        window: Window = None,
        masks: Annotated[Masks, Form(description="How masks are given: COCO run lengths or PNG in base64.")] = "rle",
    ) -> Response:
        """Answer a question about an image, as ``medground ground --json`` does. With ``Accept: text/event-stream`` the
        stages come as events, and the answer as the last.
        """
        if (image is None) == (file is None):
            raise Refusal(422, "a question needs one image", "send either file or image")
        worker.refuse_if_full()
        key = image if image is not None else await put_uploads(store, file)
        view = {"plane": plane, "slice": slice, "window": window, "masks": masks}
        job = {"do": "ground", "image": key, "path": str(store.path(key)), "question": question, **view}
        if "text/event-stream" in request.headers.get("accept", ""):
            return StreamingResponse(event_stream(worker, job), media_type="text/event-stream")
        return await _json(request, worker.ask(job))

    @app.post("/segment", max_body_size=MOST_JSON)
    async def segment(request: Request, body: SegmentRequest) -> Response:
        """Segment with the expert alone, as to correct a region. The result has the form of /ground, with one region."""
        job = {"do": "segment", **body.model_dump(), "path": str(store.path(body.image))}
        return await _json(request, worker.ask(job))

    @app.post("/export")
    async def export(request: Request, body: ExportRequest) -> Response:
        """Return masks as a file in the geometry of their image: NIfTI or a DICOM Segmentation."""
        job = {"do": "export", **body.model_dump(), "window": None, "path": str(store.path(body.image))}
        result = json.loads(await until_gone(request, worker.ask(job)))
        disposition = f'attachment; filename="{result["name"]}"'
        return Response(
            base64.b64decode(result["data"]), media_type=result["type"], headers={"Content-Disposition": disposition}
        )


async def _json(request: Request, answer: Awaitable[str]) -> Response:
    return Response(await until_gone(request, answer), media_type="application/json")


def _say(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log that something failed outside of requests, without a text that may be a client's."""
    log.error("the server failed outside of requests: %s", type(context.get("exception")).__name__)


async def _expire(store: ImageStore) -> None:
    while True:
        await asyncio.sleep(EXPIRE_SECONDS)
        store.expire()


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and isinstance(error.__cause__, OSError):
        error = Refusal(507, f"the upload cannot be stored: {error.__cause__.strerror}", "try again later")
    elif isinstance(error, HTTPException):
        error = Refusal(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    assert isinstance(error, Refusal)
    return JSONResponse(error.to_dict(), error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """Name the first field that is wrong, without its value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(word) for word in first["loc"] if word != "body") or "the body"
    return JSONResponse(Refusal(422, f"{name} is wrong: {first['msg']}").to_dict(), 422)
