"""``POST /v1/verdicts`` and ``/v1/outcomes``: what others say, onto the topics that commands write."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from streamproc.core.intake import KEY, SIGNATURE
from streamproc.core.outcomes import outcome as outcomes
from streamproc.core.outcomes.joining import text
from streamproc.core.records import TYPED
from streamproc.core.review import said as verdicts
from streamproc.core.signatures import Signatures
from streamproc.serve.bodies import kind_of, lines, whole
from streamproc.serve.door import Door
from streamproc.serve.names import CALLER, DOOR, SIGNATURES
from streamproc.serve.problems import JSON, Problem, json_response
from streamproc.serve.writing import Away, Outgoing, Placed

SIGNER: Final = "Streamproc-Signer"
SIGNED: Final = "Streamproc-Signature"
LARGEST: Final = 64 << 10
GROUP: Final = 1_000


async def say(request: web.Request) -> web.StreamResponse:
    """One verdict, claim, release or cancellation. What comes of it stands on the topic of review events."""
    door = request.app[DOOR]
    if door.plan.review is None:
        raise Problem("not-found", "the pipeline has no `review` part")
    if kind_of(request) != JSON:
        raise Problem("unsupported", f"one verdict, as {JSON}")
    body = (await whole(request, LARGEST, door.part.timeout.total_seconds())).strip()
    try:
        said = verdicts.loads(body)
    except ValueError as error:
        raise Problem("refused", "it is no verdict", errors=[_told("malformed", str(error))]) from error
    signer, signature = request.headers.get(SIGNER), request.headers.get(SIGNED)
    signatures: Signatures = request.app[SIGNATURES]
    raw = None if signature is None else signature.encode(errors="replace")
    sound = signatures.check(body, said.by, signer, raw)
    if isinstance(sound, str):
        raise Problem("refused", "what is said does not count", errors=[_told(sound, sound.replace("_", " "))])
    headers = TYPED["verdict"]
    if raw is not None:
        headers = (*headers, (KEY, (signer or "").encode()), (SIGNATURE, raw))
    # The signature is of these bytes; without one it is what the command would write.
    value = body if raw is not None else verdicts.encode(said)
    door.admit(request[CALLER], 1)
    [place] = await _write(door, [Outgoing(door.plan.topics.verdicts, None, None, value, headers)])
    return json_response({"id": said.id, "kind": said.kind, **_where(place)}, 202)


async def came_true(request: web.Request) -> web.StreamResponse:
    """Outcomes: one, or a line for each. All are checked before the first is written."""
    door = request.app[DOOR]
    if door.plan.outcomes is None:
        raise Problem("not-found", "the pipeline has no `outcomes` part")
    seconds = door.part.timeout.total_seconds()
    given = list[tuple[int, bytes | None]]()
    if kind_of(request) == JSON:
        given.append((1, (await whole(request, LARGEST, seconds)).strip()))
    else:
        async for numbered in lines(request, LARGEST, seconds):
            given.append(numbered)
            if len(given) > GROUP:
                raise Problem("too-large", f"at most {GROUP} outcomes at once: nothing was taken")
    records, bad = list[Outgoing](), list[dict[str, Any]]()
    for number, line in given:
        try:
            records.append(_outcome(door, line or b""))
        except ValueError as error:
            bad.append({"line": number, **_told("malformed", str(error))})
    if bad:
        raise Problem("refused", f"{len(bad)} of {len(given)} are no outcomes: nothing was taken", errors=bad)
    if records:
        door.admit(request[CALLER], len(records))
        await _write(door, records)
    return json_response({"taken": len(records)}, 202)


def _outcome(door: Door, line: bytes) -> Outgoing:
    """Raises ValueError where it is none of this pipeline's."""
    plan = door.plan.outcomes
    assert plan is not None
    outcome = outcomes.loads(line)
    if text(outcome.value) not in plan.values:
        raise ValueError(f"its `value` is none of {', '.join(plan.values)}")
    key = (outcome.id or outcome.key or "").encode()
    return Outgoing(door.plan.topics.outcomes, None, key, outcomes.encode(outcome), TYPED["outcome"])


async def _write(door: Door, records: list[Outgoing]) -> list[Placed]:
    try:
        return await door.sayer.write(records)
    except Away as error:
        raise Problem("broker-away", "nobody knows whether all was taken: say it again", wait=2) from error


def _where(place: Placed) -> dict[str, Any]:
    return {"topic": place.topic, "partition": place.partition, "offset": place.offset}


def _told(reason: str, detail: str) -> dict[str, str]:
    return {"reason": reason, "detail": detail}
