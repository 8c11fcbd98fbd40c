"""The worker process: it owns the models, reads images, and answers one request at a time.

It speaks JSON over a pipe, so that nothing that a damaged image does to it reaches the server as more than text.
"""

import base64
import binascii
import io
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medground.errors import InputError, MedgroundError, UsageError
from medground.geometry import Box, Point
from medground.images.loaded import LoadedImage
from medground.images.pictures import decode_picture, encoded_size, png_bytes
from medground.images.read import image_kind, image_size
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
from medground_serve.comparison import compared, comparison_recipe
from medground_serve.export import export
from medground_serve.opened import Opened
from medground_serve.volumes import VolumeAnswerer

MOST_DECODED = 256_000_000
"""Bytes of decoded images that stay in memory."""
CHECK_SECONDS = 0.02
"""Between two looks at whether a job is still wanted."""
Job = dict[str, Any]


class Cancelled(BaseException):
    """The request is not wanted any more. No `Exception`: it passes what answers for a component's failures."""


class WatchedPipeline(Pipeline):
    """A pipeline that reports its stages; `watch` may raise between them."""

    watch: Callable[[str, str], None] = staticmethod(lambda stage, text: None)

    def completions(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Completion]]:
        """As `Pipeline.completions`, with a report before, and of each piece of text as it is written.

        A reasoner without `listen` is heard once, when it has answered.
        """
        self.watch("reasoning", "")
        pieces: list[str] = []

        def listen(piece: str) -> None:
            pieces.append(piece)
            self.watch("writing", piece)

        reasoner: Any = self.reasoner
        if not hasattr(reasoner, "listen"):
            groups = super().completions(queries, sampling)
        else:
            reasoner.listen = listen
            try:
                groups = super().completions(queries, sampling)
            finally:
                reasoner.listen = None
        if rest := "".join(completion.text for completion in groups[0]).removeprefix("".join(pieces)):
            self.watch("answered", rest)
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
        second: its segmenter draws too where a job asks for a comparison.
    """

    def __init__(self, pipeline: WatchedPipeline, most_pixels: int, second: Pipeline | None = None) -> None:
        self.pipeline, self.most_pixels, self.second = pipeline, most_pixels, second
        self.opened = Opened()
        self._images: OrderedDict[tuple[str, View], LoadedImage] = OrderedDict()
        self._volumes = VolumeAnswerer(pipeline, self.opened, most_pixels)

    def facts(self) -> dict[str, Any]:
        """Return what the page says about the models. Builds them."""
        pipeline = self.pipeline
        names = {kind: pipeline.name(kind) for kind in ("reasoner", "prompt_interface", "segmenter")}
        _ = pipeline.reasoner, pipeline.prompt_interface, pipeline.segmenter
        compare = None if self.second is None else self.second.name("segmenter")
        return {**names, "compare": compare, "accepts": sorted(pipeline.accepts), "statement": STATEMENT}

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
            case "export":
                return self._export(job)
            case "chat":
                return self._chat(job)
            case "volume":
                return self._volumes.answer(job)
        raise ValueError(job["do"])

    def _open(self, job: Job) -> dict[str, Any]:
        choices: dict[str, Any] = {}
        if job["plane"] is None and job["slice"] is None:
            choices, first = self.opened.choices(Path(job["path"]))
            job = {**job, "plane": first.plane, "slice": first.slice}
        image = self._image(job)
        picture = base64.b64encode(png_bytes(image.pixels)).decode()
        facts = {"kind": image.kind, "size": list(image.size), "spacing": image.spacing, "view": dict(image.details)}
        return {"image": job["image"], **choices, **facts, "plane": job["plane"], "slice": job["slice"], "png": picture}

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
        result = self._result(answer, image, job)
        if job["compare"]:
            if self.second is None:
                raise UsageError("there is no second segmenter", hint="start the server with --compare NAME")
            result["compared"] = compared(self.second, answer, run_lengths=job["masks"] != "none")
            if job["masks"] == "png":
                with_pictures(result["compared"])
        return result

    def _export(self, job: Job) -> dict[str, Any]:
        path, view = Path(job["path"]), View(plane=job["plane"], slice=job["slice"])
        return export(self.opened.volume(path, view) or path, view, job["format"], job["masks"])

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
            data = base64.b64decode(part["data"], validate=True)
        except binascii.Error:
            raise UsageError("the image is not base64") from None
        height, width = encoded_size(data, "the image")  # from the header: nothing is decoded yet
        self._check_size(height * width)
        return {"type": "image", "image": decode_picture(io.BytesIO(data), "the image").pixels}

    def _image(self, job: Job) -> LoadedImage:
        """Return the image of a job, decoded once."""
        view = View(plane=job["plane"], slice=job["slice"], window=job["window"])
        key, path = (job["path"], view), Path(job["path"])
        if key not in self._images:
            if path.is_file() and image_kind(path) == "picture":
                height, width = image_size(path)  # from the header: nothing is decoded yet
                self._check_size(height * width)
            image = self.opened.image(path, view)
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
        second = None
        if start["compare"]:
            second = Pipeline.from_recipe(comparison_recipe(start["recipe"], start["overrides"], start["compare"]))
        answerer = Answerer(WatchedPipeline.from_recipe(recipe), start["most_pixels"], second)
        send("ready", 0, facts=answerer.facts())
    except MedgroundError as error:
        send("failed", 0, error=error.message, hint=error.hint, exit_code=error.exit_code)
        return
    except Exception as error:  # noqa: BLE001  the boundary of a process: other people's models may raise anything
        send("failed", 0, error=f"the models cannot be loaded: {type(error).__name__}: {error}", hint=None, exit_code=1)
        return
    while True:
        try:
            job = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        if job["do"] != "cancel":
            _answer(answerer, pipe, job, send)


@contextmanager
def before_modules(check: Callable[..., None]) -> Iterator[None]:
    """Call `check` whenever a module of torch is about to compute, so that what it raises ends a model between two layers."""
    torch = sys.modules.get("torch")  # where nothing has imported it, no module of it computes
    hook = None if torch is None else torch.nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _answer(answerer: Answerer, pipe: "Connection[bytes, bytes]", job: Job, send: Callable[..., None]) -> None:
    number, checked = job["job"], 0.0

    def check() -> None:
        nonlocal checked
        checked = time.monotonic()
        if pipe.poll():  # while a job runs, the server sends nothing but its cancellation
            pipe.recv_bytes()
            raise Cancelled

    def check_often(*_: object) -> None:
        if time.monotonic() - checked > CHECK_SECONDS:
            check()

    def watch(stage: str, text: str) -> None:
        check()
        send("stage", number, stage=stage, text=text)

    answerer.pipeline.watch = watch
    try:
        with before_modules(check_often):
            result = json.dumps(answerer.answer(job), allow_nan=False)
        send("done", number, result=result, encodes=answerer.encodes)
    except Cancelled:
        send("cancelled", number)
    except MedgroundError as error:
        status = 422 if isinstance(error, InputError | UsageError) else 500
        send("refused", number, status=status, error=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001  the boundary of a process: other people's models may raise anything
        send("refused", number, status=500, error=f"the worker failed: {type(error).__name__}", hint=None)
