"""The demonstration of support messages: a language model that is slow now and then, away for a while, and attacked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from streamproc.control import say as say_to_workers
from streamproc.core.llm.budget import MILLION
from streamproc.core.plan import Plan
from streamproc.demo.events import Events
from streamproc.demo.llm_server import LlmServer
from streamproc.demo.loan_story import settled
from streamproc.demo.messages import SEED, messages
from streamproc.demo.people import tell_outcomes
from streamproc.demo.show import Say, Told
from streamproc.demo.surroundings import Worker
from streamproc.demo.triage_model import answer
from streamproc.demo.triage_story import BEGINS, ENDS, HALF, TriageStory
from streamproc.demo.triage_table import told
from streamproc.io.llm.minilm import minilm_folder
from streamproc.kafka.connection import Connection
from streamproc.labels import load_prompts, record_of, relabelled, the_prompt, write

MESSAGES = 2_000
OUTAGE_SECONDS = 30.0
HANGS_SHARE = 1 / 3
"""Of the outage: the server takes calls and does not answer. Then it breaks them off."""
PROMPT, NEXT = "triage", "2"


class TriageShow:
    """The model's server is slow now and then, and goes away. At the end it is counted what came of the attacks."""

    example: ClassVar = "support_triage"
    workers: ClassVar = 2
    seconds: ClassVar = 65.0
    paced: ClassVar = True

    def __init__(self, *, alone: bool) -> None:
        """Raises EnvironmentFault where what the example's workers need is not installed."""
        minilm_folder()  # before anything is started
        self._alone = alone
        self.story: TriageStory | None = None
        self._server = LlmServer(answer, SEED)
        self._file = Path()

    def sample(self, count: int | None, bad_share: float) -> Events:
        """Messages, with attacks and copies among them."""
        made = messages(count or MESSAGES, bad_share)
        self.story = None if self._alone else TriageStory(made.truth)
        return made.events

    def change(self, file: Path, stack: ExitStack) -> None:
        """Start the server, and say where it is."""
        url = stack.enter_context(self._server).url
        text = file.read_text(encoding="utf-8")
        assert "${TRIAGE_LLM}" in text
        file.write_text(text.replace("${TRIAGE_LLM}", url), encoding="utf-8")
        self._file = file

    @asynccontextmanager
    async def happening(self, connection: Connection, plan: Plan, worker: Worker, say: Say) -> AsyncIterator[None]:
        """The server goes away, and comes back; meanwhile another version of the prompt is put to use."""
        if self.story is None:
            yield
            return
        [llm] = [model.llm for model in plan.models if model.llm is not None]
        self.story.money = None if llm.budget.money is None else llm.budget.money.most / MILLION
        async with asyncio.TaskGroup() as group:
            happenings = [
                group.create_task(self._interrupt(self.story)),
                group.create_task(self._relabel(self.story, connection, plan)),
            ]
            yield
            for one in happenings:
                one.cancel()  # it has come to its end, unless the messages did not

    async def _interrupt(self, story: TriageStory) -> None:
        await story.due.wait(BEGINS)
        self._server.outage, story.away = "hangs", time.time()
        try:
            async with asyncio.timeout(OUTAGE_SECONDS):
                try:
                    async with asyncio.timeout(OUTAGE_SECONDS * HANGS_SHARE):
                        await story.due.wait(ENDS)
                except TimeoutError:
                    self._server.outage = "breaks off"
                    await story.due.wait(ENDS)
        except TimeoutError:
            pass
        self._server.outage, story.back = None, time.time()

    async def _relabel(self, story: TriageStory, connection: Connection, plan: Plan) -> None:
        """What `streamproc prompt label FILE triage production 2` does."""
        await story.due.wait(HALF)
        used = the_prompt(load_prompts(self._file)[1], PROMPT)
        prompts = relabelled(used, "production", NEXT, 0)
        why = "it knows the words of more languages"
        write(used.registry, prompts)
        story.relabelled = prompts.production.label, time.time()
        await say_to_workers(connection, record_of(plan.pipeline, prompts, datetime.now(UTC), "demo", why))

    async def came_to(self, connection: Connection, plan: Plan) -> dict[str, Any] | None:
        """The measures, once all outcomes are told."""
        if self.story is None:
            return None
        self.story.server = asdict(self._server.served)
        return await settled(connection, plan, await tell_outcomes(connection, plan, self.story.outcomes()))

    def told(self, figures: dict[str, Any]) -> Told:
        """What was decided by whom, how fast and for how much, and what came of the attacks."""
        return told(figures)
