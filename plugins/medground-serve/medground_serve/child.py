"""The worker process: it owns the models, reads images, and answers one request at a time.

It speaks JSON over a pipe, so that nothing that a damaged image does to it reaches the server as more than text.
"""

import base64
import binascii
import io
import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medground.errors import InputError, MedgroundError, UsageError
from medground.geometry import Box, Point
from medground.images.loaded import LoadedImage
from medground.images.pictures import decode_picture, png_bytes
from medground.images.read import image_kind, image_size, open_image
from medground.images.rle import decode_rle
from medground.images.view import View
from medground.pipeline.completions import generate
from medground.pipeline.masks import Answers, Segmented
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.result import GroundingResult
from medground.recipe import check, resolve
from medground.report import STATEMENT
from medground.report.stated import with_statement
from medground.types import Completion, Fault, Grounding, Messages, Query, Region, Sampling
from medground_serve.volumes import VolumeAnswerer

MOST_DECODED = 256_000_000
"""Bytes of decoded images that stay in memory."""
Job = dict[str, Any]


class Cancelled(Exception):
    """The request is not wanted any more."""


class WatchedPipeline(Pipeline):
    """A pipeline that reports its stages; `watch` may raise between them."""

    watch: Callable[[str, str], None] = staticmethod(lambda stage, text: None)

    def completions(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Completion]]:
        """As `Pipeline.completions`, with a report before and after."""
        self.watch("reasoning", "")
        groups = super().completions(queries, sampling)
        self.watch("answered", "".join(completion.text for completion in groups[0]))
        return groups

    def masks(self, answers: Answers) -> list[Segmented]:
        """As `Pipeline.masks`, with a report before."""
        self.watch("segmenting", "")
        return super().masks(answers)


class Answerer:
    """Answers jobs with one pipeline.

    Args:
        pipeline: it answers.
        most_pixels: of an image.
    """

    def __init__(self, pipeline: WatchedPipeline, most_pixels: int) -> None:
        self.pipeline, self.most_pixels = pipeline, most_pixels
        self._images: OrderedDict[tuple[str, View], LoadedImage] = OrderedDict()
        self._volumes = VolumeAnswerer(pipeline, most_pixels)

    def facts(self) -> dict[str, Any]:
        """Return what the page says about the models. Builds them."""
        pipeline = self.pipeline
        names = {kind: pipeline.name(kind) for kind in ("reasoner", "prompt_interface", "segmenter")}
        _ = pipeline.reasoner, pipeline.prompt_interface, pipeline.segmenter
        return {**names, "accepts": sorted(pipeline.accepts), "statement": STATEMENT}

    @property
    def encodes(self) -> int | None:
        """How many images the segmenter has encoded; None where it has no encoder."""
        stats = getattr(self.pipeline.segmenter, "stats", None)
        return None if stats is None else int(stats.misses)

    def answer(self, job: Job) -> dict[str, Any]:
        """Return the result of a job.

        Raises:
            MedgroundError: if it cannot be done.
        """
        match job["do"]:
            case "open":
                return self._open(job)
            case "ground":
                return self._ground(job)
            case "segment":
                return self._segment(job)
            case "chat":
                return self._chat(job)
            case "volume":
                return self._volumes.answer(job)
        raise ValueError(job["do"])

    def _open(self, job: Job) -> dict[str, Any]:
        image = self._image(job)
        picture = base64.b64encode(png_bytes(image.pixels)).decode()
        facts = {"kind": image.kind, "size": list(image.size), "spacing": image.spacing, "view": dict(image.details)}
        return {"image": job["image"], **facts, "png": picture}

    def _ground(self, job: Job) -> dict[str, Any]:
        image = self._image(job)
        query = Query(image=image.pixels, question=job["question"], id=image.id, spacing=image.spacing)
        answer = self.pipeline(query)
        if answer.fault is Fault.UNUSABLE_INPUT:
            raise InputError(answer.cause)
        return self._result(answer, image, job)

    def _segment(self, job: Job) -> dict[str, Any]:
        image = self._image(job)
        box = None if job["box"] is None else Box(*job["box"])
        if box is not None and not (box.x1 < box.x2 and box.y1 < box.y2):
            raise UsageError("the box has no area", hint="give x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        points = tuple(Point(x, y) for x, y in job["points"])
        try:
            region = Region(box=box, points=points, labels=tuple(job["labels"]), label=job["text"])
        except ValueError as error:
            raise UsageError(str(error)) from None
        prompt = (
            region.prompt("box", "points", *["text"] * bool(job["text"])) if box or points else region.prompt("text")
        )
        if prompt is None:
            raise UsageError("there is nothing to segment", hint="give a box, points or a text")
        if unread := sorted(prompt.kinds - self.pipeline.accepts):
            name, accepts = self.pipeline.name("segmenter"), ", ".join(sorted(self.pipeline.accepts))
            raise UsageError(f"the segmenter {name} does not take {' and '.join(unread)}", hint=f"it takes {accepts}")
        (outcome,) = self.pipeline.masks([(image.pixels, [prompt])])
        answer = GroundingResult(
            query=Query(image=image.pixels, question="", id=image.id, spacing=image.spacing),
            completion=Completion(text="", frame=None),
            grounding=Grounding(regions=(region,)).with_masks(outcome.masks),
            fault=outcome.fault,
            cause=outcome.cause,
            prompts=(prompt,),
        )
        return self._result(answer, image, job)

    def _result(self, answer: GroundingResult, image: LoadedImage, job: Job) -> dict[str, Any]:
        result = answer.to_dict(run_lengths=job["masks"] != "none")
        if job["masks"] == "png":
            with_pictures(result)
        result = {**result, "view": dict(image.details) or None, "image": job["image"]}
        return with_statement(result, self.pipeline.untrained, files={}, notes=[])

    def _chat(self, job: Job) -> dict[str, Any]:
        messages: Messages = [
            {**turn, "content": [self._part(part) for part in turn["content"]]} for turn in job["turns"]
        ]
        if sum(part["type"] == "image" for turn in messages for part in turn["content"]) != 1:
            raise UsageError("a conversation must hold exactly one image")
        (completions,) = generate(self.pipeline.reasoner, [messages], Sampling(**job["sampling"]))
        if completions[0].fault is not None:
            raise InputError(completions[0].cause)
        choices = [
            {
                "index": index,
                "finish_reason": completion.finish_reason,
                "message": {"role": "assistant", "content": completion.text},
            }
            for index, completion in enumerate(completions)
        ]
        return {"object": "chat.completion", "model": self.pipeline.name("reasoner"), "choices": choices}

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return part
        try:
            stream = io.BytesIO(base64.b64decode(part["data"], validate=True))
        except binascii.Error:
            raise UsageError("the image is not base64") from None
        picture = decode_picture(stream, "the image")
        self._check_size(picture.pixels.shape[0] * picture.pixels.shape[1])
        return {"type": "image", "image": picture.pixels}

    def _image(self, job: Job) -> LoadedImage:
        """Return the image of a job, decoded once."""
        view = View(plane=job["plane"], slice=job["slice"], window=job["window"])
        key, path = (job["path"], view), Path(job["path"])
        if key not in self._images:
            if image_kind(path) == "picture":
                height, width = image_size(path)  # from the header: nothing is decoded yet
                self._check_size(height * width)
            image = open_image(path, view)
            self._check_size(image.size[0] * image.size[1])
            self._images[key] = image
            while sum(one.pixels.nbytes for one in self._images.values()) > MOST_DECODED and len(self._images) > 1:
                self._images.popitem(last=False)
        self._images.move_to_end(key)
        return self._images[key]

    def _check_size(self, pixels: int) -> None:
        if pixels > self.most_pixels:
            raise InputError(f"the image has {pixels} pixels, more than {self.most_pixels}", hint="make it smaller")


def with_pictures(value: Any) -> None:
    """Replace run lengths by pictures wherever they are in a result: ``rle`` by ``png``, in base64."""
    if isinstance(value, dict):
        if "rle" in value:
            value["png"] = base64.b64encode(png_bytes(decode_rle(value.pop("rle")))).decode()
        for one in value.values():
            with_pictures(one)
    elif isinstance(value, list):
        for one in value:
            with_pictures(one)


def main(descriptor: int) -> None:
    """Serve the pipe of a file descriptor until its other end is closed."""
    pipe: Connection[bytes, bytes] = Connection(descriptor)

    def send(kind: str, number: int, **values: Any) -> None:
        pipe.send_bytes(json.dumps({"kind": kind, "job": number, **values}).encode())

    start = json.loads(sys.argv[1])
    try:
        recipe = resolve(start["recipe"], *start["overrides"])
        check(recipe)
        answerer = Answerer(WatchedPipeline.from_recipe(recipe), start["most_pixels"])
        send("ready", 0, facts=answerer.facts())
    except MedgroundError as error:
        send("failed", 0, error=error.message, hint=error.hint, exit_code=error.exit_code)
        return
    while True:
        try:
            job = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        if job["do"] != "cancel":
            _answer(answerer, pipe, job, send)


def _answer(answerer: Answerer, pipe: "Connection[bytes, bytes]", job: Job, send: Callable[..., None]) -> None:
    number = job["job"]

    def watch(stage: str, text: str) -> None:
        if pipe.poll():  # while a job runs, the server sends nothing but its cancellation
            pipe.recv_bytes()
            raise Cancelled
        send("stage", number, stage=stage, text=text)

    answerer.pipeline.watch = watch
    try:
        result = json.dumps(answerer.answer(job), allow_nan=False)
        send("done", number, result=result, encodes=answerer.encodes)
    except Cancelled:
        send("cancelled", number)
    except MedgroundError as error:
        status = 422 if isinstance(error, InputError | UsageError) else 500
        send("refused", number, status=status, error=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001  the boundary of a process: other people's models may raise anything
        send("refused", number, status=500, error=f"the worker failed: {type(error).__name__}", hint=None)
