"""What a pipeline's workers, its doors and its operators must be allowed to do in Kafka: ACLs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from streamproc.kafka.agent import Agent
from streamproc.plan.load import Loaded
from streamproc.plan.models import StreamReference
from streamproc.topics import TopicRole, door_topics, redriven_topic

Resource = Literal["topic", "group", "transactional-id"]
Who = Literal["worker", "operator", "door"]
_ALL = ("Read", "Write", "Describe", "DescribeConfigs")


@dataclass(frozen=True, slots=True)
class Grant:
    """Operations on one resource. ``prefixed`` means on every resource whose name begins with ``name``."""

    who: Who
    resource: Resource
    name: str
    operations: tuple[str, ...]
    why: str
    prefixed: bool = False

    def command(self, principal: str, bootstrap: str) -> str:
        """The kafka-acls command that grants it."""
        words = ["kafka-acls", "--bootstrap-server", bootstrap, "--add", "--allow-principal", principal]
        for operation in self.operations:
            words += ["--operation", operation]
        words += [f"--{self.resource}", self.name]
        if self.prefixed:
            words += ["--resource-pattern-type", "prefixed"]
        return shlex.join(words)


def worker_grants(loaded: Loaded, agents: Sequence[Agent], rows: Sequence[TopicRole]) -> list[Grant]:
    """What a worker needs: it runs all agents, so its principal needs what each of them does.

    CREATE is for topics that the worker makes itself (not with ``run --no-create-topics``).
    """
    name = loaded.plan.pipeline
    grants = []
    for row in rows:
        users = [agent.name for agent in agents if _uses(agent, row.spec.name, name)]
        why = f"{row.role}, agent {', '.join(users)}" if users else row.role
        grants.append(Grant("worker", "topic", row.spec.name, _operations(row), why))
    drift = loaded.file.drift
    reference = None if drift is None else drift.reference
    if isinstance(reference, StreamReference) and reference.topic not in {row.spec.name for row in rows}:
        why = "drift.reference: what is normal is learned from it"
        grants.append(Grant("worker", "topic", reference.topic, ("Read", "Describe", "DescribeConfigs"), why))
    agent_names = ", ".join(agent.name for agent in agents)
    return [
        *grants,
        Grant("worker", "group", name, ("Read", "Describe"), f"the consumer group of {agent_names}"),
        Grant(
            "worker",
            "transactional-id",
            f"{name}-",
            ("Write", "Describe"),
            "one id a worker process; prefixed, because a worker that takes over from a dead one"
            " ends its transaction under its id",
            prefixed=True,
        ),
    ]


def door_grants(loaded: Loaded, rows: Sequence[TopicRole]) -> list[Grant]:
    """What a door (``streamproc serve``) needs. CREATE is for topics that it makes itself (not with
    ``--no-create-topics``)."""
    plan = loaded.plan
    does = {"unseen": "Write", "verdicts": "Write", "outcomes": "Write"}
    why = {
        "decisions": "door: what is answered",
        "dead-letter": "door: why an event has no decision",
        "unseen": "door: decisions that callers have not seen",
        "repartitioned": "door: how far its lanes are",
    }
    return [
        Grant("door", "topic", plan.events.input, _ALL, "door: events that come in; how far lanes are"),
        *(
            Grant(
                "door",
                "topic",
                row.spec.name,
                (does.get(row.role, "Read"), "Create", "Describe", "DescribeConfigs"),
                why.get(row.role, f"door: {row.role} that come in"),
            )
            for row in door_topics(rows)
        ),
        Grant("door", "group", plan.pipeline, ("Describe",), "door: how far lanes are"),
    ]


def operator_grants(loaded: Loaded, agents: Sequence[Agent], rows: Sequence[TopicRole]) -> list[Grant]:
    """What a person needs for ``decision``, ``dead-letters``, ``control``, ``prompt``, ``drift``, ``reset`` and
    ``topics``."""
    plan = loaded.plan
    topics, name = plan.topics, plan.pipeline
    marks = redriven_topic(loaded).spec.name
    read = ("Read", "Describe", "DescribeConfigs")

    def on_topic(topic: str, operations: tuple[str, ...], why: str) -> Grant:
        return Grant("operator", "topic", topic, operations, why)

    watching = (
        (topics.drift, read, "drift explain"),
        (topics.panes, read, "drift report"),
        (topics.drift_state, read, "drift incidents"),
    )
    changelogs = [row.spec.name for row in rows if row.role == "changelog"]
    return [
        on_topic(plan.events.input, _ALL, "decision show; redrive"),
        *([] if plan.events.source is None else [on_topic(topics.repartitioned, read, "decision show")]),
        on_topic(topics.decisions, read, "decision"),
        on_topic(topics.artefacts, read, "decision show: the archived plans"),
        on_topic(topics.dead_letters, read, "dead-letters"),
        on_topic(marks, ("Read", "Write", "Create", "Describe", "DescribeConfigs"), "what was redriven already"),
        on_topic(topics.control, _ALL, "control; prompt label; drift ack and rebase"),
        on_topic(topics.audit, _ALL, "what was said by these"),
        *(on_topic(topic, ("Read", "Write", "Describe"), "reset --drop-state") for topic in changelogs),
        *(on_topic(topic, operations, why) for topic, operations, why in watching if plan.drift is not None),
        Grant("operator", "group", name, ("Read", "Describe"), "reset"),
        Grant(
            "operator",
            "transactional-id",
            f"{name}-",
            ("Write", "Describe"),
            "redrive; control; prompt label; drift ack and rebase; reset, which ends transactions of dead workers",
            prefixed=True,
        ),
    ]


def _uses(agent: Agent, topic: str, app: str) -> bool:
    return topic in agent.topics or topic in agent.writes or topic == agent.changelog(app)


def _operations(row: TopicRole) -> tuple[str, ...]:
    does = {"read": ("Read",), "write": ("Write",), "read and write": ("Read", "Write"), "none": ()}[row.access]
    create = () if row.role == "events" else ("Create",)
    return (*does, *create, "Describe", "DescribeConfigs")
