"""Every event of a hostile server on real sockets gives the right text or the right fault."""

import json
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import replace
from email.utils import formatdate

import pytest
from openai_servers import KEY, choice, conversation, number, reply

from medground.geometry import Box, Point
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.rollouts import RolloutPipeline
from medground.recipe import resolve
from medground.rewards.rubric import rubric
from medground.types import Fault, Query, Region, Sample, Sampling, Target, image_of

TIMEOUT, RETRIES = 60.0, 2


def stated(request):
    return f"<answer>question {number(request)} answered</answer>"


def one(handler, request, **more):
    reply(handler, {"id": "same", "choices": [choice(stated(request))], **more})


def reset(handler):
    """Close the connection with a reset."""
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def whole(request, **more):
    return json.dumps({"choices": [choice(stated(request))], **more}).encode()


def raw(handler, *pieces):
    for piece in pieces:
        handler.wfile.write(piece)


def head(*lines):
    return "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: application/json", *lines, "", ""]).encode()


def dripping(handler, request, clock, seconds):
    """Send one byte at a time and advance the clock between them, without waiting."""
    body = whole(request)
    raw(handler, head(f"Content-Length: {len(body)}"))
    for byte in body:
        clock.advance(seconds / len(body))
        handler.wfile.write(bytes([byte]))
    handler.wfile.flush()


def late(handler, request, clock):
    clock.advance(TIMEOUT + 1)
    one(handler, request)


def late_headers(handler, request, clock):
    for letter in b"HTTP/1.1 200 OK\r\nX-Slow: 1\r\n":
        clock.advance(TIMEOUT / 8)
        handler.wfile.write(bytes([letter]))


def elsewhere(status):
    return lambda h, r, s: reply(h, b"", status, Location=f"{s['other'].url}/chat/completions")


def malformed(*choices):
    return lambda h, r, s: reply(h, {"choices": list(choices)})


RIGHT = {
    "as it should be": lambda h, r, s: one(h, r),
    "the same id as ever": lambda h, r, s: one(h, r, id="chatcmpl-1"),
    "another content type": lambda h, r, s: reply(h, whole(r), Content_Type="text/html"),
    "no usage": lambda h, r, s: one(h, r),
    "usage that is no usage": lambda h, r, s: one(h, r, usage={"prompt_tokens": "many", "completion_tokens": -3}),
    "no choice index": lambda h, r, s: reply(
        h, {"choices": [{"finish_reason": "stop", "message": {"content": stated(r)}}]}
    ),
    "chunked": lambda h, r, s: raw(
        h, head("Transfer-Encoding: chunked"), b"".join(b"1\r\n%c\r\n" % byte for byte in whole(r)), b"0\r\n\r\n"
    ),
    "until the end of the connection": lambda h, r, s: raw(h, head("Connection: close"), whole(r)),
    "slow, in time": lambda h, r, s: dripping(h, r, s["clock"], TIMEOUT / 2),
    "cut by the length limit": lambda h, r, s: reply(h, {"choices": [choice(stated(r), reason="length")]}),
    "cut by the content filter": lambda h, r, s: reply(h, {"choices": [choice(stated(r), reason="content_filter")]}),
    "a refusal": lambda h, r, s: reply(h, {"choices": [choice(None, refusal=stated(r))]}),
}
"""Events that give the text of the model."""
SILENT = {
    "an empty text": lambda h, r, s: reply(h, {"choices": [choice("")]}),
    "nothing before the limit": lambda h, r, s: reply(h, {"choices": [choice(None, reason="length")]}),
    "all filtered": lambda h, r, s: reply(h, {"choices": [choice(None, reason="content_filter")]}),
    "the prompt filtered": lambda h, r, s: reply(h, {"error": {"code": "content_filter", "message": "no"}}, 400),
}
"""Events in which the model returns no text: a fault of the model, which is scored."""
PASSING = {
    "429": lambda h, r, s: reply(h, {"error": {"message": "slow down"}}, 429),
    "429 with seconds": lambda h, r, s: reply(h, b"", 429, Retry_After="7"),
    "429 with a date": lambda h, r, s: reply(h, b"", 429, Retry_After=formatdate(0, usegmt=True)),
    "429 with nonsense": lambda h, r, s: reply(h, b"[1]", 429, Retry_After="soon, -1, 1e999"),
    "500 echoing the key": lambda h, r, s: reply(h, {"error": {"message": f"bad {h.headers['Authorization']}"}}, 500),
    "502 from a gateway": lambda h, r, s: reply(h, b"<html>bad gateway</html>", 502, Content_Type="text/html"),
    "503 with seconds": lambda h, r, s: reply(h, b"", 503, Retry_After="3"),
    "529": lambda h, r, s: reply(h, b"", 529),
    "408": lambda h, r, s: reply(h, b"", 408),
    "a reset at once": lambda h, r, s: reset(h),
    "a close at once": lambda h, r, s: None,
    "a reset in the headers": lambda h, r, s: (raw(h, b"HTTP/1.1 200 OK\r\nContent-"), reset(h)),
    "a reset in the body": lambda h, r, s: (raw(h, head("Content-Length: 500"), whole(r)[:40]), reset(h)),
    "a body cut short": lambda h, r, s: raw(h, head("Content-Length: 5000"), whole(r)),
    "a chunk cut short": lambda h, r, s: raw(h, head("Transfer-Encoding: chunked"), b"ff\r\n", whole(r)[:40]),
    "a body that just ends": lambda h, r, s: raw(h, head("Connection: close"), whole(r)[:-9]),
    "half JSON": lambda h, r, s: reply(h, whole(r)[:-5]),
    "JSON twice": lambda h, r, s: reply(h, whole(r) * 2),
    "a page": lambda h, r, s: reply(h, b"<html><body>Welcome!</body></html>", Content_Type="text/html"),
    "an empty body": lambda h, r, s: reply(h, b""),
    "a stream, cut": lambda h, r, s: reply(
        h, b'data: {"choices": [{"delta": {"content": "a', Content_Type="text/event"
    ),
    "bytes that are no text": lambda h, r, s: reply(h, b'{"choices": "\xff\xfe\x80"}'),
    "brackets without end": lambda h, r, s: reply(h, b"[" * 200_000),
    "a list": lambda h, r, s: reply(h, [1]),
    "an error with 200": lambda h, r, s: reply(h, {"error": {"message": "overloaded"}}),
    "no choices": malformed(),
    "a choice that is none": malformed("text"),
    "duplicated indices": malformed(choice("a", 0), choice("a", 0)),
    "an index of another": malformed(choice("a", 5)),
    "more choices than asked": malformed(choice("a", 0), choice("b", 1)),
    "no reason to end": malformed(choice("half an ans", reason=None)),
    "aborted": malformed(choice("half an ans", reason="abort")),
    "no text": malformed(choice(None)),
    "text that is a number": malformed(choice(17)),
    "no message": malformed({"index": 0, "finish_reason": "stop"}),
    "no HTTP": lambda h, r, s: raw(h, b"220 mail.example.com ESMTP\r\n\r\n"),
    "headers without end": lambda h, r, s: raw(h, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 200),
    "a line without end": lambda h, r, s: raw(h, b"HTTP/1.1 200 OK\r\nX: ", b"y" * 100_000),
    "a huge body": lambda h, r, s: raw(h, head("Connection: close"), *[b" " * 1_000_000] * 18),
    "a huge claim": lambda h, r, s: raw(h, head("Content-Length: 900000000000000"), whole(r)),
    "a huge chunk": lambda h, r, s: raw(h, head("Transfer-Encoding: chunked"), b"ffffffffffff\r\n", whole(r)),
}
"""Events after which the client tries again."""
FINAL = {
    "400": lambda h, r, s: reply(h, {"error": {"message": "context too long", "code": "length"}}, 400),
    "401": lambda h, r, s: reply(h, {"error": {"message": f"wrong key {h.headers['Authorization']}"}}, 401),
    "403": lambda h, r, s: reply(h, b"", 403),
    "404": lambda h, r, s: reply(h, {"message": f"no such model\x1b[31m {h.headers['Authorization']}"}, 404),
    "413": lambda h, r, s: reply(h, b"", 413),
    **{f"a redirect, {status}": elsewhere(status) for status in (301, 302, 303, 307, 308)},
}
"""Events after which the client does not try again."""
LATE = {
    "a slow drip": lambda h, r, s: dripping(h, r, s["clock"], 4 * TIMEOUT),
    "late": lambda h, r, s: late(h, r, s["clock"]),
    "late headers": lambda h, r, s: late_headers(h, r, s["clock"]),
}
EVENTS = {**RIGHT, **SILENT, **PASSING, **FINAL, **LATE}
OF_MODEL = {**RIGHT, **SILENT}


def plan(events, seed, names):
    """Return scripts of events, one per question, with `events` in all; each is used to its end."""
    draw, scripts = random.Random(seed), []
    left = events
    every = list(names)
    while left:
        script = []
        while len(script) < RETRIES + 1 and left:
            # Every event once, in turn, before any is drawn at random.
            script.append(every.pop() if every else draw.choice(list(names)))
            left -= 1
            if script[-1] in OF_MODEL or script[-1] in FINAL:
                break
        scripts.append(script)
    if len(scripts[-1]) < RETRIES + 1 and scripts[-1][-1] not in OF_MODEL | FINAL:
        scripts[-1][-1] = "as it should be"  # the last script may have run out of events before it was settled
    return scripts


def expected(script, index):
    """Return the (text, fault) that a script requires."""
    last = script[-1]
    if last in RIGHT:
        return f"<answer>question {index} answered</answer>", None
    if last in SILENT:
        return "", None
    return "", Fault.TIMEOUT if last in LATE else Fault.TRANSPORT


def check_nothing_lost(scripts, serve, make, clock, concurrency):
    other = serve()
    state = {"clock": clock, "other": other}
    todo = {index: list(script) for index, script in enumerate(scripts)}
    stub = serve(lambda handler, request: EVENTS[todo[number(request)].pop(0)](handler, request, state))
    reasoner = make(stub, retries=RETRIES, timeout=TIMEOUT, deadline=1e9, concurrency=concurrency)
    if concurrency > 1:  # one made-up clock cannot time several requests: real time, and waits that take none
        reasoner.client = replace(reasoner.client, clock=time.monotonic, sleep=lambda seconds: None)
    batch = [conversation(f"question {index}", seed=index) for index in range(len(scripts))]
    completions = [group[0] for group in reasoner.generate(batch, Sampling())]

    wanted = [expected(script, index) for index, script in enumerate(scripts)]
    wrong = [
        (script, completion.text, completion.fault, completion.cause)
        for script, completion, right in zip(scripts, completions, wanted, strict=True)
        if (completion.text, completion.fault) != right
    ]
    assert wrong == []
    assert not any(todo.values()), "events that were never asked for"
    assert len(stub.received) == sum(map(len, scripts))
    assert other.received == [], "a redirect was followed"
    assert all(request["key"] == f"Bearer {KEY}" for request in stub.received)
    for completion in completions:
        assert bool(completion.cause) == (completion.fault is not None)
        assert KEY not in completion.cause and completion.cause.isprintable()
    cut = {index for index, script in enumerate(scripts) if "length" in script[-1] or "before the limit" in script[-1]}
    assert {i for i, completion in enumerate(completions) if completion.finish_reason == "length"} == {
        i for i in cut if scripts[i][-1] in OF_MODEL
    }
    check_nothing_misscored(batch, completions)
    return completions


def check_nothing_misscored(batch, completions):
    """Every answer of the model has a total, a malformed one too; a transport failure has none."""
    recipe = resolve("train/soft", "reasoner=toy", "segmenter=null")
    graph = RolloutPipeline(Pipeline.from_recipe(recipe), rubric({"rewards": {"format_seg": 1.0}}))
    target = Target(regions=(Region(box=Box(1, 1, 9, 9), points=(Point(2, 2), Point(5, 5))),))
    samples = [Sample(query=Query(image=image_of(messages), question="?"), target=target) for messages in batch]
    for group, completion in zip(graph.score(samples, [[c] for c in completions]), completions, strict=True):
        (score,), (rollout,) = group.scores, group.rollouts
        assert score.failed == (completion.fault is not None)
        assert (score.total is None) == score.failed
        assert rollout.cause == completion.cause


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_three_hundred_events_give_the_right_text_or_fault(serve, make, clock, seed):
    scripts = plan(300, seed, EVENTS)
    met = Counter(name for script in scripts for name in script)
    assert sum(met.values()) == 300 and set(met) == set(EVENTS)
    completions = check_nothing_lost(scripts, serve, make, clock, concurrency=1)
    assert {completion.fault for completion in completions} == {None, Fault.TRANSPORT, Fault.TIMEOUT}


@pytest.mark.slow
def test_eight_concurrent_requests_give_the_right_text_or_fault(serve, make, clock):
    timeless = {name: event for name, event in EVENTS.items() if name not in LATE and name != "slow, in time"}
    check_nothing_lost(plan(300, 1, timeless), serve, make, clock, concurrency=8)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_three_thousand_events_give_the_right_text_or_fault(serve, make, clock, seed):
    check_nothing_lost(plan(300, seed, EVENTS), serve, make, clock, concurrency=1)
