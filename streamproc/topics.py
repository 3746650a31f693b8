"""The topics of a pipeline: what they must be, making them, and what is wrong with those that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from streamproc.core.plan import ABSTAIN
from streamproc.errors import UserError
from streamproc.kafka import admin
from streamproc.kafka.admin import Mismatch, TopicInfo, TopicSpec
from streamproc.kafka.agent import Agent
from streamproc.kafka.connection import Connection
from streamproc.plan.load import Loaded

BROKERS_TIME = {"message.timestamp.type": "LogAppendTime"}
LARGE_BYTES = 8 << 20
"""Review items and dead letters carry an event and more: they take more than the broker's default of 1 MB."""

Role = Literal[
    "events",
    "decisions",
    "action",
    "review",
    "abstained",
    "dead-letter",
    "artefacts",
    "panes",
    "drift",
    "drift-state",
    "control",
    "audit",
    "cases",
    "verdicts",
    "review-events",
    "action-results",
    "outcomes",
    "outcomes-by-lane",
    "metrics",
    "changelog",
    "table",
    "table-by-lane",
    "redriven",
    "repartitioned",
    "unseen",
]


OF_LANES: tuple[Role, ...] = (
    "repartitioned",
    "changelog",
    "panes",
    "cases",
    "verdicts",
    "review-events",
    "action-results",
    "outcomes",
    "outcomes-by-lane",
    "table-by-lane",
)
"""Topics whose partitions are lanes: they need as many as the events topic has."""


@dataclass(frozen=True, slots=True)
class TopicRole:
    """A topic and what it is to the pipeline. ``access`` is what the worker does with it."""

    role: Role
    access: Literal["read", "write", "read and write", "none"]
    spec: TopicSpec


def pipeline_topics(loaded: Loaded, agents: Sequence[Agent], partitions: int) -> list[TopicRole]:
    """Every topic of a pipeline whose events topic has so many partitions."""
    plan, part = loaded.plan, loaded.file.topics
    retention = int(part.retention.total_seconds() * 1000)
    count = part.partitions or partitions

    told = bool(plan.language_models)  # of prompts, also long ago

    def spec(name: str, count: int, **more: object) -> TopicSpec:
        settings = {"retention_ms": retention, "max_message_bytes": LARGE_BYTES, "internal": True} | more
        return TopicSpec(name, count, part.replication, **settings)  # type: ignore[arg-type]

    topics = plan.topics
    compacted = {"cleanup_policy": "compact", "retention_ms": None}
    decisions = TopicRole("decisions", "write", spec(topics.decisions, count))
    if plan.outcomes is not None:  # the outcome agent's lanes read them
        decisions = TopicRole("decisions", "read and write", spec(topics.decisions, partitions))
    rows = [
        TopicRole("events", "read", TopicSpec(plan.events.input, partitions, part.replication)),
        decisions,
        TopicRole("review", "write", spec(topics.review, count)),
        TopicRole("dead-letter", "write", spec(topics.dead_letters, count)),
        TopicRole("artefacts", "write", spec(topics.artefacts, 1, **compacted)),
        TopicRole("control", "read and write", spec(topics.control, 1, **compacted)),
        TopicRole("audit", "read and write" if told else "write", spec(topics.audit, 1, retention_ms=-1)),
    ]
    if plan.events.source is not None:
        rows.append(TopicRole("repartitioned", "read and write", spec(topics.repartitioned, partitions)))
    if ABSTAIN in plan.decisions:
        rows.append(TopicRole("abstained", "write", spec(topics.abstained, count)))
    if plan.drift is not None:
        rows += [
            TopicRole("panes", "read and write", spec(topics.panes, partitions)),
            TopicRole("drift", "write", spec(topics.drift, 1)),
            TopicRole("drift-state", "read and write", spec(topics.drift_state, 1, **compacted)),
        ]
    if plan.review is not None:
        rows += [
            # its records say when the broker took them: that is when a case is opened, and when an answer came
            TopicRole("cases", "read and write", spec(topics.cases, partitions, config=BROKERS_TIME)),
            TopicRole("verdicts", "read", spec(topics.verdicts, partitions)),
            TopicRole("action-results", "read", spec(topics.action_results, partitions)),
            TopicRole(
                "review-events",
                "write" if plan.outcomes is None else "read and write",
                spec(topics.review_events, partitions),
            ),
        ]
    if plan.outcomes is not None:
        rows += [
            TopicRole("outcomes", "read", spec(topics.outcomes, partitions)),
            TopicRole("outcomes-by-lane", "read and write", spec(topics.outcomes_by_lane, partitions)),
            TopicRole("metrics", "write", spec(topics.metrics, 1, **compacted)),
        ]
    rows += [
        TopicRole(
            "table-by-lane" if table.hold == "lanes" else "table",
            "read",
            spec(table.topic, partitions, internal=False, max_message_bytes=None, **compacted),
        )
        for table in loaded.file.tables.values()
    ]
    actions = sorted({topic for topic in plan.actions.values() if topic is not None})
    rows += [TopicRole("action", "write", spec(topic, count, internal=False)) for topic in actions]
    rows += [
        TopicRole("changelog", "read and write", spec(agent.changelog(plan.pipeline), partitions, **compacted))
        for agent in agents
    ]
    return rows


def redriven_topic(loaded: Loaded) -> TopicRole:
    """Where `streamproc dead-letters … redrive` notes what it has redriven. No worker reads or writes it.

    A note has to outlive its dead letter, or that could be redriven again: it is kept twice as long.
    """
    part = loaded.file.topics
    retention = int(part.retention.total_seconds() * 1000) * 2
    spec = TopicSpec(
        f"{loaded.plan.pipeline}.redriven",
        1,
        part.replication,
        cleanup_policy="compact,delete",
        retention_ms=retention,
        internal=True,
    )
    return TopicRole("redriven", "none", spec)


def door_topics(rows: Sequence[TopicRole]) -> list[TopicRole]:
    """The pipeline's own topics among ``rows`` that a door writes or reads."""
    roles = {"decisions", "dead-letter", "verdicts", "outcomes", "repartitioned", "unseen"}
    return [row for row in rows if row.role in roles]


def unseen_topic(loaded: Loaded, partitions: int) -> TopicRole:
    """Where a door notes which decisions their callers have not seen. No worker reads or writes it."""
    part = loaded.file.topics
    retention = int(part.retention.total_seconds() * 1000)
    count = part.partitions or partitions
    spec = TopicSpec(loaded.plan.topics.unseen, count, part.replication, retention_ms=retention, internal=True)
    return TopicRole("unseen", "none", spec)


async def check_topics(connection: Connection, rows: Sequence[TopicRole], *, create: bool) -> dict[str, TopicInfo]:
    """The topics as they are, made where they were missing. Raises UserError with what does not fit.

    The events topic is never made here: it is its producers'.
    """
    infos = await admin.describe(connection, [row.spec.name for row in rows])
    missing = [row for row in rows if row.spec.name not in infos]
    if missing and not create:
        names = ", ".join(row.spec.name for row in missing)
        raise UserError(f"topics are missing: {names}", "make them with `streamproc topics FILE --create`")
    if missing:
        await admin.create(connection, [row.spec for row in missing])
        infos |= await admin.describe(connection, [row.spec.name for row in missing])
    wrong = [
        problem for row in rows for problem in differences(row, infos[row.spec.name]) if matters(row, problem.what)
    ]
    if wrong:
        raise UserError("; ".join(map(str, wrong)), _remedy(rows, wrong))
    return infos


def _remedy(rows: Sequence[TopicRole], wrong: Sequence[Mismatch]) -> str:
    """What to do about topics that do not fit. Another name of the pipeline changes no table."""
    tables = {row.spec.name for row in rows if row.role == "table-by-lane"}
    of_tables = [one for one in wrong if one.topic in tables and one.what == "its partition count"]
    if len(of_tables) < len(wrong):
        return "change the topic, or give this pipeline another name"
    return (
        f"`hold: lanes` needs {of_tables[0].expected} partitions, as the events topic has, and the same keys in each:"
        " write the rows to such a topic, or take `hold: lanes` out, so that every worker holds all rows"
    )


def differences(row: TopicRole, info: TopicInfo) -> list[Mismatch]:
    """How a topic differs from what it should be. The events topic is its producers', as it is.

    So are tables, but for what they are to this pipeline: compacted, and of one partition a lane where lanes hold them.
    """
    if row.role == "events":
        return []
    found = admin.mismatches(row.spec, info)
    if row.role not in ("table", "table-by-lane"):
        return found
    compacts = "compact" in info.configs.get("cleanup.policy", "").split(",")
    counts = row.role == "table-by-lane"
    return [
        one
        for one in found
        if (one.what == "cleanup.policy" and not compacts) or (one.what == "its partition count" and counts)
    ]


def matters(row: TopicRole, what: str) -> bool:
    """Whether the pipeline refuses to run with such a difference.

    Partition counts are contracts of lanes and their changelogs; elsewhere consumers may want their own."""
    if what == "its partition count":
        return row.role in OF_LANES or (row.role == "decisions" and row.access == "read and write")
    return what == "cleanup.policy" or (row.role == "cases" and what in BROKERS_TIME)


async def events_topic(connection: Connection, topic: str) -> admin.TopicInfo:
    """The events topic as the broker has it. Raises UserError where there is no such topic."""
    infos = await admin.describe(connection, [topic])
    if topic not in infos:
        raise UserError(
            f"the events topic {topic!r} does not exist",
            f"its producers own it; for a try: `streamproc produce … --topic {topic} --create-topic`",
        )
    return infos[topic]
