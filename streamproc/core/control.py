"""What people tell a running pipeline, as records of its control topic.

They say what is normal now, what automation may do, who looks at an incident, and which versions of prompts are used.
The topic is compacted, by what a record is about; every record also stands on the audit topic, which keeps them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final, TypeAlias

import msgspec

from streamproc.core.drift.baseline import Baseline
from streamproc.core.drift.baseline import loads as load_baseline
from streamproc.core.plan import Mode
from streamproc.core.records import VERSIONS

VERSION: Final = VERSIONS["control"]
BASELINE_KEY: Final = b"baseline/"
MODE_KEY: Final = b"mode"
INCIDENT_KEY: Final = b"incident/"
PROMPT_KEY: Final = b"prompt/"


Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time that says of which zone it is."""


class Place(msgspec.Struct, frozen=True):
    """The next offset of a partition of the events topic."""

    partition: int
    offset: int


class _Said(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every control record says: when, by whom and why.

    ``signature`` is in base64 and of the record's own JSON without it, by the key that has the name of ``by``.
    """

    version: int = VERSION
    pipeline: str
    time: Moment
    by: str
    why: str
    signature: str | None = None


class NewNormal(_Said, frozen=True, kw_only=True, tag="baseline"):
    """What is normal from now on, for one plan and model; ``baseline`` is its JSON.

    It was learned from the events of ``topic`` from ``start`` up to ``end``, or from a file where that is null. No two
    have the same hash, whatever they were learned from: panes by a new one tell that it took over.
    """

    plan: str
    model: str | None
    topic: str | None
    start: tuple[Place, ...]
    end: tuple[Place, ...]
    baseline: msgspec.Raw

    @property
    def key(self) -> bytes:
        return BASELINE_KEY + f"{self.plan}/{self.model or ''}".encode()


class IncidentNote(_Said, frozen=True, kw_only=True, tag="incident"):
    """That somebody has seen an incident, who owns it, and until when nobody wants to hear of it."""

    incident: str
    acknowledged: bool
    owner: str | None = None
    snoozed_until: Moment | None = None

    @property
    def key(self) -> bytes:
        return INCIDENT_KEY + self.incident.encode()

    def is_snoozed(self, now: datetime) -> bool:
        return self.snoozed_until is not None and now < self.snoozed_until


class NewMode(_Said, frozen=True, kw_only=True, tag="mode"):
    """What automation may do from now on."""

    mode: Mode

    @property
    def key(self) -> bytes:
        return MODE_KEY


class PromptFile(msgspec.Struct, frozen=True):
    """A version of a prompt: ``text`` is that of its file, ``hash`` the SHA-256 of it."""

    version: str
    hash: str
    text: str


class NewLabels(_Said, frozen=True, kw_only=True, tag="labels"):
    """Which versions of a prompt are used from now on: ``share`` of all keys are given the ``canary``.

    The versions are there as a whole: a worker need not have their files.
    """

    prompt: str
    production: PromptFile
    canary: PromptFile | None = None
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0

    @property
    def key(self) -> bytes:
        return PROMPT_KEY + self.prompt.encode()


Said: TypeAlias = NewNormal | IncidentNote | NewMode | NewLabels
_decoder: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)
_encode = msgspec.json.Encoder().encode


def dumps(record: Said) -> bytes:
    """The value of a control record, as schemas/control.schema.json has it."""
    return _encode(record)


def signable(record: Said) -> bytes:
    """What is signed of a record."""
    return dumps(msgspec.structs.replace(record, signature=None))


def loads(raw: bytes) -> Said:
    """The record of a value. Raises ValueError where it is none, or of a later version."""
    try:
        record = _decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is no control record: {error}") from error
    if record.version != VERSION:
        raise ValueError(f"it has version {record.version}, and this is for version {VERSION}")
    return record


@dataclass(frozen=True, slots=True)
class Control:
    """What holds now: the last word on the baseline of each plan and model, on the mode, on each incident by its id,
    and on the labels of each prompt by its name."""

    normals: Mapping[tuple[str, str | None], NewNormal] = field(default_factory=dict)
    mode: NewMode | None = None
    incidents: Mapping[str, IncidentNote] = field(default_factory=dict)
    labels: Mapping[str, NewLabels] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Said]) -> Control:
        """From the newest record of each key that counts."""
        normals, mode, incidents = dict[tuple[str, str | None], NewNormal](), None, dict[str, IncidentNote]()
        labels = dict[str, NewLabels]()
        for record in records:
            match record:
                case NewNormal():
                    normals[record.plan, record.model] = record
                case NewMode():
                    mode = record
                case IncidentNote():
                    incidents[record.incident] = record
                case NewLabels():
                    labels[record.prompt] = record
        return cls(normals, mode, incidents, labels)

    def baseline(self, plan: str, model: str | None) -> Baseline | None:
        """The baseline that was said to be normal for this plan and model, where one was.

        Raises ValueError where it is none that this program can read.
        """
        said = self.normals.get((plan, model))
        return None if said is None else load_baseline(bytes(said.baseline))
