"""The support messages of the demonstration: made by chance from a seed, with what is true of each."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any, Final, Literal, TypeAlias

import yaml

from streamproc.demo.events import Events, Fields, damage
from streamproc.sample import example

SEED: Final = 7
FIELDS: Final = Fields("monthly_fee", "body", "monthly_fee")
FIRST: Final = datetime(2026, 1, 5, 8, tzinfo=UTC)
EVERY: Final = timedelta(seconds=2)
Kind: TypeAlias = Literal["plain", "attack", "look-alike", "copy", "near", "again", "odd"]
SHARES: Final[Mapping[Kind, float]] = {
    "attack": 0.06, "look-alike": 0.03, "copy": 0.06, "near": 0.14, "again": 0.02, "odd": 0.03, "plain": 0.66,
}  # fmt: skip
"""``copy``: the same text as an earlier message; ``near``: the same with another greeting; ``again``: the earlier
message itself, with its id; ``odd``: one with bytes that few people type."""
KNOWN: Final = 0.6
"""The share of attacks that begin as attacks are known to."""
URGENT: Final = 0.15
FAR: Final = 300
"""So many messages back a copy reaches at most."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a message is, what it is about, and whether somebody has to act at once."""

    kind: Kind
    category: str
    urgent: bool

    @property
    def should(self) -> str:
        """What is right for it."""
        if self.urgent:
            return "escalate"
        return "answer" if self.category == "feedback" else "queue"


@dataclass(frozen=True, slots=True)
class Message:
    """``hello``, ``text`` and ``bye`` make the body. ``body`` stands instead where that is given."""

    tenant: str
    fee: int
    language: str
    hello: str
    text: str
    bye: str
    subject: str | None
    truth: Truth
    id: str = ""
    body: str | None = None

    def value(self, at: datetime) -> bytes:
        """The event. Escapes hold what has no bytes in UTF-8."""
        body = f"{self.hello}\n\n{self.text}\n\n{self.bye}" if self.body is None else self.body
        event: dict[str, Any] = {"id": self.id, "tenant": self.tenant, "subject": self.subject, "body": body}
        event |= {"language": self.language, "monthly_fee": self.fee, "created_at": at.isoformat()}
        return json.dumps(event).encode()


@dataclass(frozen=True, slots=True)
class Messages:
    """What is sent, and what is true of each, in the same order."""

    events: Events
    truth: Sequence[Truth]


@cache
def texts() -> Mapping[str, Any]:
    """The example's texts."""
    made: Mapping[str, Any] = yaml.safe_load((example("support_triage") / "texts.yaml").read_text("utf-8"))
    return made


def messages(count: int, bad_share: float, seed: int = SEED) -> Messages:
    """So many messages; the same for the same arguments."""
    chance = Random(seed)  # noqa: S311 - not for secrets
    made, plain = list[Message](), deque[Message](maxlen=FAR)
    for number in range(count):
        [kind] = chance.choices(list(SHARES), list(SHARES.values()))
        message = _made(chance, kind, plain)
        if message.truth.kind != "again":
            message = replace(message, id=f"m{seed}-{number}")
        if message.truth.kind == "plain":
            plain.append(message)
        made.append(message)
    keys = [one.tenant.encode() for one in made]
    values: list[bytes | None] = [one.value(FIRST + EVERY * number) for number, one in enumerate(made)]
    damaged = damage(values, bad_share, FIELDS, chance)
    return Messages(Events(keys, values, len(damaged)), [one.truth for one in made])


def _made(chance: Random, kind: Kind, plain: Sequence[Message]) -> Message:
    message = _plain(chance)
    if kind in ("copy", "near", "again") and plain:
        message = chance.choice(plain)
    elif kind in ("copy", "near", "again"):
        return message
    message = replace(message, truth=replace(message.truth, kind=kind))
    match kind:
        case "near":
            words = texts()["languages"][message.language]
            others = [one for one in words["hello"] if one != message.hello]
            hello = chance.choice(others) if others else f"{message.hello}!"
            return replace(message, hello=hello)
        case "attack":
            return _attacked(chance, message)
        case "look-alike":
            found = chance.choice(texts()["lookalikes"])
            truth = Truth("look-alike", found["category"], message.truth.urgent and found["category"] != "feedback")
            text = " ".join([_filled(chance, found["text"]), *(_urgent("en", chance) if truth.urgent else ())])
            hello = chance.choice(texts()["languages"]["en"]["hello"])
            return replace(message, language="en", hello=hello, text=text, subject=None, truth=truth)
        case "odd":
            return _odd(chance, message)
        case _:
            return message


def _plain(chance: Random) -> Message:
    said = texts()
    languages = said["languages"]
    [language] = chance.choices(list(languages), [one["share"] for one in languages.values()])
    [category] = chance.choices(list(said["shares"]), list(said["shares"].values()))
    [tenant] = chance.choices(list(said["tenants"]), list(said["tenants"].values()))
    words = languages[language]
    urgent = category == "security" or (category != "feedback" and chance.random() < URGENT)
    sentence = _filled(chance, chance.choice(words[category]))
    text = " ".join([sentence, *(_urgent(language, chance) if urgent else ())])
    return Message(
        tenant=tenant,
        fee=chance.choice([0, 0, 900, 1900, 4900]),
        language=language,
        hello=chance.choice(words["hello"]),
        text=text,
        bye=_filled(chance, chance.choice(words["bye"])),
        subject=sentence[:40] if chance.random() < 0.8 else None,
        truth=Truth("plain", category, urgent),
    )


def _urgent(language: str, chance: Random) -> list[str]:
    return [chance.choice(texts()["languages"][language]["urgent"])]


def _filled(chance: Random, text: str) -> str:
    return text.format(
        order=chance.randrange(10_000, 99_999),
        product=chance.choice(texts()["products"]),
        amount=f"{chance.randrange(5, 400)}.{chance.randrange(100):02} EUR",
        name=chance.choice(texts()["names"]),
    )


def _attacked(chance: Random, message: Message) -> Message:
    """A message with an order to the model in it, often disguised."""
    known = chance.random() < KNOWN
    order = chance.choice(texts()["attacks"]["known" if known else "sly"])
    if known:
        disguise = chance.choice(
            (
                lambda text: text,
                lambda text: text.upper(),
                "\u200b".join,
                lambda text: "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text),
                lambda text: "Decode this: " + base64.b64encode(text.encode() * 3).decode(),
                lambda text: "".join(chr(0xE0000 + ord(one)) for one in text if one.isascii()) + " ok",
            )
        )
        order = disguise(order)
    if chance.random() < 0.2:
        return replace(message, subject=order)
    parts = [message.text, order]
    chance.shuffle(parts)
    return replace(message, text="\n".join(parts))


def _odd(chance: Random, message: Message) -> Message:
    """A message with characters, or of a size, that few people type."""
    ways = (
        lambda text: text.replace(" ", " \x00\x07", 2),
        lambda text: f"\u202e{text}\u202c",
        lambda text: text.replace("e", "e\u0301\u0302\u0303\u0304"),
        lambda text: f"{text} \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd",
        lambda text: f"{text} \ud83d",
        lambda text: text + "\n" + "".join(f"2026-01-05 08:00:{row % 60:02} worker {row} ok\n" for row in range(4_000)),
        lambda text: text + "\n" + '{"a": ' * 200 + "1" + "}" * 200,
    )
    return replace(message, text=chance.choice(ways)(message.text))
