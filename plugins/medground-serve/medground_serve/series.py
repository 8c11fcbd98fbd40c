"""Questions about volumes that lie here or on a DICOMweb server: what the routes for viewers share."""

import asyncio
import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from medground_serve.dicomweb import UID, DicomWeb, Series
from medground_serve.settings import Refusal
from medground_serve.store import ImageStore
from medground_serve.waiting import until_gone
from medground_serve.worker import Worker


def is_uid(text: str) -> bool:
    """Return True if a text can be a DICOM identifier."""
    return re.fullmatch(UID, text) is not None


def _checked(text: str) -> str:
    if not is_uid(text):
        raise ValueError("it is no DICOM identifier")
    return text


Uid = Annotated[str, AfterValidator(_checked), Field(description="A SeriesInstanceUID.")]


class VolumeQuestion(BaseModel):
    """What is asked about a volume."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)
    question: str = Field(min_length=1, max_length=2000)
    slice: str = Field("ask", max_length=10, description="The slice's number from 0, ask or middle.")
    window: str = Field("", max_length=40, description="By name or CENTRE,WIDTH; empty: the file's own.")
    store: bool = Field(False, description="Store the mask on the DICOMweb server, as a DICOM Segmentation.")


class SeriesQuestion(VolumeQuestion):
    """What is asked about a series of the DICOMweb server."""

    model_config = ConfigDict(extra="forbid")
    series: Uid


class StoredQuestion(VolumeQuestion):
    """What is asked about a stored volume."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(max_length=64, description="As /images names it.")


@dataclass(frozen=True)
class VolumeAnswer:
    """The answer to a question about a volume."""

    result: dict[str, Any]
    """That of ``medground volume --json``; ``stored`` says whether the DICOMweb server has the mask."""
    nrrd: bytes
    """Labels of the regions; empty of them where nothing fits."""


class Volumes:
    """Volumes that were uploaded, and series that are fetched when they are asked about.

    Args:
        worker: answers.
        store: holds what was uploaded or fetched.
        web: where series come from; None: from nowhere.
    """

    def __init__(self, worker: Worker, store: ImageStore, web: DicomWeb | None) -> None:
        self.worker, self.store, self.web = worker, store, web
        self._keys: dict[Series, str] = {}
        self._fetching = asyncio.Lock()

    def archive(self) -> DicomWeb:
        """Return the DICOMweb server.

        Raises:
            Refusal: 404 if there is none.
        """
        if self.web is None:
            raise Refusal(404, "this server has no DICOMweb server", "start it with --dicomweb URL")
        return self.web

    async def ask_series(self, request: Request, uid: str, question: VolumeQuestion) -> VolumeAnswer:
        """Answer a question about a series; fetch it unless it is here as the DICOMweb server lists it now.

        Raises:
            Refusal: as `archive`, `DicomWeb`, `ImageStore.add` and `Worker.ask`.
        """
        web = self.archive()
        series = await asyncio.to_thread(web.series, uid)
        async with self._fetching:
            key = self._keys.get(series)
            if key is None or not self.store.has(key):
                key = await asyncio.to_thread(self._fetch, web, series)
                self._keys = {one: stored for one, stored in self._keys.items() if self.store.has(stored)} | {
                    series: key
                }
        return await self._ask(request, key, question, series)

    async def ask_stored(self, request: Request, key: str, question: VolumeQuestion) -> VolumeAnswer:
        """Answer a question about an uploaded volume.

        Raises:
            Refusal: as `ImageStore.path` and `Worker.ask`; 422 if the mask is to be stored.
        """
        if question.store:
            raise Refusal(422, "an uploaded volume is no series of the DICOMweb server", "leave store out")
        return await self._ask(request, key, question, None)

    def _fetch(self, web: DicomWeb, series: Series) -> str:
        def write(path: Path) -> None:
            path.mkdir()
            web.fetch(series, path, self.store.most_bytes)

        return self.store.add("series", write)

    async def _ask(self, request: Request, key: str, question: VolumeQuestion, series: Series | None) -> VolumeAnswer:
        with TemporaryDirectory(dir=self.store.folder) as out:
            job = {
                "do": "volume", "path": str(self.store.path(key)), "out": out, "seg": question.store,
                "question": question.question, "slice": question.slice, "window": question.window or None,
            }  # fmt: skip
            result = json.loads(await until_gone(request, self.worker.ask(job)))
            files = result.pop("files")
            nrrd = (Path(out) / files["nrrd"]).read_bytes()
            seg = (Path(out) / files["seg"]).read_bytes() if "seg" in files else None
        if series is not None and seg is not None:
            await asyncio.to_thread(self.archive().store, series.study, seg)
        return VolumeAnswer({**result, "stored": seg is not None}, nrrd)


def add(app: FastAPI, volumes: Volumes) -> None:
    """Add the routes for programs."""

    @app.post("/ground/volume")
    async def ground_stored(request: Request, body: StoredQuestion) -> dict[str, Any]:
        """Answer a question about a stored volume, as ``medground volume --json`` does; ``nrrd`` is the mask, in base64."""
        answer = await volumes.ask_stored(request, body.image, body)
        return {**answer.result, "nrrd": base64.b64encode(answer.nrrd).decode()}

    @app.post("/ground/series")
    async def ground_series(request: Request, body: SeriesQuestion) -> dict[str, Any]:
        """Answer a question about a series of the DICOMweb server, as ``medground volume --json`` does; with ``store`` the
        mask goes back as a DICOM Segmentation.
        """
        return (await volumes.ask_series(request, body.series, body)).result
