"""The HTTP dialect of MONAI Label, which panels of 3D Slicer and OHIF speak: questions about volumes, and saved labels."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from medground import __version__
from medground.report import STATEMENT
from medground_serve.labels import LabelFolder
from medground_serve.series import VolumeAnswer, VolumeQuestion, Volumes, is_uid
from medground_serve.settings import MOST_REGIONS, Refusal, Settings
from medground_serve.uploads import put_uploads

QUESTION = "Which region is abnormal?"
"""What is asked where a panel sends no question of its own: it sends what its user changed."""
MODEL = "medground"
LABELS = {f"region {number}": number for number in range(1, MOST_REGIONS + 1)}
CONFIG = VolumeQuestion.model_validate({"question": QUESTION}).model_dump()
"""The fields of a panel's options, with what stands in them at first."""
Params = Annotated[str, Form(max_length=20_000)]
Id = Annotated[str, Query(max_length=200)]


def add(router: APIRouter, settings: Settings, volumes: Volumes) -> None:
    """Add the routes."""
    images: dict[str, str] = {}
    _states(router, settings, volumes)
    _sessions(router, volumes)
    _infer(router, volumes, images)
    _datastore(router, volumes, LabelFolder(settings.labels), images)


def _states(router: APIRouter, settings: Settings, volumes: Volumes) -> None:
    @router.get("/info/")
    async def info() -> dict[str, Any]:
        """Return the model, its labels, and the fields that panels show; no `config` at the top: Slicer refuses one."""
        model = {
            "type": "segmentation", "dimension": 3, "labels": LABELS, "config": CONFIG,
            "description": "A question about the volume is answered on one slice, and followed through the others.",
        }  # fmt: skip
        return {
            "name": "medground", "description": STATEMENT, "version": __version__, "labels": list(LABELS),
            "models": {MODEL: model}, "trainers": {}, "strategies": {}, "scoring": {}, "train_stats": {},
            "datastore": {"total": 0, "completed": 0, "label_tags": {}},
        }  # fmt: skip

    @router.get("/auth/")
    async def auth() -> dict[str, bool]:
        """Say that a token is needed. Needs none itself."""
        return {"enabled": True}

    @router.post("/auth/token")
    async def token(username: Annotated[str, Form()], password: Annotated[str, Form()]) -> dict[str, str]:
        """Return the token to whoever gives it as the password, whatever the user name: Slicer asks people for both."""
        if not secrets.compare_digest(password.encode(), settings.token.encode()):
            raise Refusal(401, "the password is not the token", "give what follows # in the address that was printed")
        return {"access_token": settings.token, "token_type": "bearer"}

    @router.get("/auth/token/valid")
    async def valid() -> dict[str, str]:
        """Answer 200 to whoever carries the token."""
        return {}

    @router.get("/train/")
    async def training() -> JSONResponse:
        """Say that nothing is trained here: 404, which panels expect."""
        return JSONResponse(Refusal(404, "nothing is trained here").to_dict(), 404)

    @router.post("/activelearning/{strategy}")
    async def sample(strategy: str) -> dict[str, Any]:
        """Say that there is no next sample."""
        return {}


def _sessions(router: APIRouter, volumes: Volumes) -> None:
    @router.put("/session/")
    async def begin(files: Annotated[list[UploadFile], File(max_length=1000)]) -> dict[str, Any]:
        """Store a volume, one file or the slices of a DICOM series; return the session that names it."""
        key = await put_uploads(volumes.store, *files)
        return {"session_id": key, "session_info": _session(key)}

    @router.get("/session/{key}")
    async def look(key: str) -> dict[str, Any]:
        """Say that a session is there, else 404; it counts as use."""
        volumes.store.path(key)
        return _session(key)

    @router.delete("/session/{key}")
    async def end(key: str) -> dict[str, Any]:
        """Delete a session's volume."""
        volumes.store.delete(key)
        return {}


def _session(key: str) -> dict[str, Any]:
    return {"name": key, "image": key, "path": "", "meta": {}}


def _infer(router: APIRouter, volumes: Volumes, images: Mapping[str, str]) -> None:
    @router.post("/infer/{model}")
    async def infer(
        request: Request,
        model: str,
        image: Id = "",
        session_id: Id = "",
        output: Literal["all", "image", "json"] = "all",
        params: Params = "{}",
        file: Annotated[UploadFile | None, File()] = None,
    ) -> Response:
        """Answer a question about a session's volume, an uploaded one, or the series `image`: JSON and labels as NRRD.

        The answer has a Content-Length: MONAI Label's client would write the lengths of chunks into the mask.
        """
        if model != MODEL:
            raise Refusal(404, "there is no such model", f"it is called {MODEL}")
        question = _question(params)
        if session_id:
            answer = await volumes.ask_stored(request, session_id, question)
        elif file is not None:
            answer = await volumes.ask_stored(request, await put_uploads(volumes.store, file), question)
        elif image in images:
            answer = await volumes.ask_stored(request, images[image], question)
        elif is_uid(image):
            answer = await volumes.ask_series(request, image, question)
        else:
            raise Refusal(422, "the request names no volume", "give a session, a file, or a SeriesInstanceUID as image")
        if fault := answer.result["fault"]:
            raise Refusal(422, f"the question was not answered: {fault}", answer.result["cause"])
        return _answer(answer, output)


def _question(params: str) -> VolumeQuestion:
    """Return what a panel asks, its missing fields as `CONFIG` has them."""
    try:
        given = json.loads(params)
        if not isinstance(given, dict):
            raise TypeError
        return VolumeQuestion.model_validate(CONFIG | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refusal(422, f"params.{first['loc'][0]} is wrong: {first['msg']}") from None
    except (TypeError, ValueError):
        raise Refusal(422, "params is no JSON object", 'send {"question": "..."}') from None


def _answer(answer: VolumeAnswer, output: str) -> Response:
    result = {"label_names": LABELS, **answer.result}
    if output == "json":
        return JSONResponse(result)
    if output == "image":
        return Response(answer.nrrd, media_type="application/octet-stream")
    limit = secrets.token_hex(16)
    form = 'Content-Disposition: form-data; name="'
    # A client writes the mask to a file of this name, whatever it is.
    head = f'{form}image"; filename="{secrets.token_hex(8)}.nrrd"\r\nContent-Type: application/octet-stream\r\n\r\n'
    text = json.dumps(result).encode()
    body = b"".join(
        [
            f'--{limit}\r\n{form}params"\r\nContent-Type: application/json\r\n\r\n'.encode(), text,
            f"\r\n--{limit}\r\n{head}".encode(), answer.nrrd, f"\r\n--{limit}--\r\n".encode(),
        ]
    )  # fmt: skip
    return Response(body, headers={"Content-Type": f"multipart/form-data; boundary={limit}"})


def _datastore(router: APIRouter, volumes: Volumes, labels: LabelFolder, images: dict[str, str]) -> None:
    @router.get("/datastore/")
    async def datastore(output: str = "stats") -> dict[str, Any]:
        """Say that there are no images to choose from."""
        return {"objects": {}} if output == "all" else {"total": 0, "completed": 0}

    @router.put("/datastore/")
    async def put_image(image: Id, file: Annotated[UploadFile, File()]) -> dict[str, str]:
        """Store a volume under a name of the client's; it expires as every image does."""
        for name in [name for name, key in images.items() if not volumes.store.has(key)]:
            del images[name]
        images[image] = await put_uploads(volumes.store, file)
        return {"image": image}

    @router.put("/datastore/label")
    async def save_label(
        image: Id, label: Annotated[UploadFile, File()], tag: Id = "final", params: Params = "{}"
    ) -> dict[str, str]:
        """Save a label that a person corrected, in the folder of ``--labels``."""
        await asyncio.to_thread(labels.save, image, tag, label.file, params)
        return {"image": image, "label": image}

    @router.get("/datastore/label")
    async def get_label(label: Id, tag: Id = "final") -> Response:
        """Return a saved label."""
        name, data = await asyncio.to_thread(labels.read, label, tag)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}  # the client needs the quotes
        return Response(data, media_type="application/octet-stream", headers=headers)
