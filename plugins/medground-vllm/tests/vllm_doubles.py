"""Recording doubles of vLLM and its server, and a small reasoner and engine to call them."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import numpy as np

from medground.frames import Frame
from medground.protocols import SamplerPrompt, Serving
from medground.types import Completion, image_of, text_of

PROMPT = [1, 7, 7, 7, 2]
END, IMAGE = 9, 7
VERSION = "0.32.0"


class Reasoner:
    """The part of a served reasoner that a rollout source uses; its text is its token ids."""

    policy = None

    def __init__(self, *, vision_trains=False):
        self.vision_trains = vision_trains

    def serving(self):
        return Serving(
            checkpoint="model", dtype="float32", end=frozenset({END}), forbidden={IMAGE: "<|image_pad|>"},
            vision_trains=self.vision_trains,
        )  # fmt: skip

    def sampler_prompts(self, batch):
        return [
            SamplerPrompt(
                text=text_of(each),
                image=image_of(each),
                ids=np.array(PROMPT, np.int32),
                frame=Frame("pixel", (4, 4), "xy"),
            )
            for each in batch
        ]

    def completion(self, ids, logprobs, frame, *, stopped):
        return Completion(
            text=" ".join(map(str, ids)), frame=frame, token_ids=np.asarray(ids, np.int32),
            logprobs=np.asarray(logprobs, np.float32), finish_reason="stop" if stopped else "length",
        )  # fmt: skip

    def checkpoint_weights(self, weights):
        yield from ((name.removeprefix("model."), tensor) for name, tensor in weights)

    def _unused(self, *args, **kwargs):
        raise AssertionError("a rollout source has no business here")

    frame = generate = sample = tokenize = group = rows = parameters = logprobs = _unused
    keep_reference = reference = save = _unused


class Engine:
    """One of several ranks."""

    def __init__(self, rank=0, world_size=1):
        self.rank, self.world_size, self.met = rank, world_size, 0

    def all_reduce(self, sums):
        self.met += 1
        return dict(sums)


class RecordingLLM:
    """A double of vLLM's ``LLM`` that records its calls and answers with `written`."""

    def __init__(self, written=((3, 4, END), (3, 3, 3))):
        self.calls, self.written, self.version, self.prompt = [], written, "default", PROMPT
        self.llm_engine = SimpleNamespace(
            reset_mm_cache=lambda: self.calls.append("reset_mm_cache"),
            reset_encoder_cache=lambda: self.calls.append("reset_encoder_cache"),
            engine_core=SimpleNamespace(shutdown=lambda: self.calls.append("shutdown")),
        )

    def collective_rpc(self, method, kwargs):
        self.weights = dict(kwargs["weights_iterator"])
        self.calls.append((method, [*self.weights]))

    def update_weight_version(self, version):
        self.calls.append(("version", version))
        self.version = version

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")
        return True

    def sleep(self, level):
        self.calls.append(("sleep", level))

    def wake_up(self, tags):
        self.calls.append(("wake_up", *tags))

    def generate(self, prompts, params, use_tqdm):
        self.calls.append(("generate", len(prompts), [each.seed for each in params]))
        self.params = params
        outputs = [
            SimpleNamespace(
                index=index,
                token_ids=ids,
                logprobs=SimpleNamespace(logprobs=[-0.5] * len(ids)),
                weight_versions=[SimpleNamespace(version=self.version)],
            )
            for index, ids in enumerate(self.written)
        ]
        return [SimpleNamespace(prompt_token_ids=self.prompt, outputs=outputs[::-1]) for _ in prompts]


class RecordingServer:
    """A real HTTP server on loopback, in a thread, with the routes that are used."""

    def __init__(self, mode="processed_logprobs"):
        self.calls, self.version, self.mode, self.fail = [], "default", mode, {}
        self.bodies = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(outer.get(self.path.partition("?")[0]))

            def do_POST(self):
                said = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path
                if path in outer.fail:
                    self.send_response(outer.fail[path])
                    self.end_headers()
                    self.wfile.write(b"no")
                    return
                self.reply(outer.post(path, json.loads(said) if said else None))

            def reply(self, value):
                data = b"" if value is None else json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def get(self, path):
        return {
            "/v1/models": {"data": [{"id": "served"}]},
            "/server_info": {"vllm_config": {"model_config": {"logprobs_mode": self.mode}}},
            "/weight_info": {"weight_version": self.version},
            "/get_world_size": {"world_size": 2},
        }[path]

    def post(self, path, body):
        if path == "/v1/chat/completions":
            self.bodies.append(body)
            content = [{"logprob": -0.5}] * 3
            choices = [
                {"index": index, "token_ids": ids, "logprobs": {"content": content}}
                for index, ids in enumerate(([3, 4, END], [3, 3, 3]))
            ]
            return {"prompt_token_ids": PROMPT, "choices": choices[::-1]}
        self.calls.append((path, body))
        if path == "/update_weight_version":
            self.version = body["new_version"]
        return {"success": True} if path == "/reset_prefix_cache" else None

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def conversation(text="Where?"):
    image = np.full((4, 4, 3), 9, np.uint8)
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
