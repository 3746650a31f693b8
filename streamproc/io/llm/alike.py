"""Answers to texts that are alike, and whether they may be served."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import orjson

from streamproc.core.llm.cache import Question, Said, key_of
from streamproc.core.llm.cache_policy import RIGHT, WRONG, SemanticPolicy
from streamproc.core.llm.lexical import Wording
from streamproc.core.llm.nearby import Nearby, Vector
from streamproc.core.llm.trust import Trust, agree
from streamproc.io.llm.kept import Kept

log = logging.getLogger(__name__)

SHARE_OF_TIME: Final = 0.25
"""So much of the time that there is a row waits for its vector; then it is asked about without."""
LONGEST_KEPT: Final = 4_096
"""Bytes of an answer that is held beside a vector."""
MOST_PROMPTS: Final = 64
"""So many are known how far they can be trusted."""


@dataclass(frozen=True, slots=True)
class Like:
    """A text as it is compared, and the answer to one that is alike. It is given where it ``serves``; where it is to
    be ``verified`` the row is asked about, and so it is where it is neither."""

    partition: bytes
    vector: Vector
    wording: Wording
    found: tuple[Kept, Said] | None = None
    serves: bool = False
    verified: bool = False


class Alike:
    """Texts and their answers in the memory of this process, each for ``seconds``. ``vector`` makes vectors of texts,
    in a thread of its own; all else is called on one event loop."""

    def __init__(self, policy: SemanticPolicy, seconds: float, vector: Callable[[str], Vector | None]) -> None:
        self._policy, self._seconds, self._vector = policy, seconds, vector
        self._texts = Nearby[tuple[Kept, Said]](policy.most, policy.threshold)
        self._trusts = OrderedDict[str, Trust]()
        self._aside: ThreadPoolExecutor | None = None
        self._told = ""

    def trust(self, prompt: str) -> Trust:
        """What is known of answers to a prompt, by its hash."""
        found = self._trusts.setdefault(prompt, Trust(self._policy))
        self._trusts.move_to_end(prompt)
        if len(self._trusts) > MOST_PROMPTS:
            self._trusts.popitem(last=False)
        return found

    async def look(self, question: Question, until: float) -> Like | None:
        """What there is for a question; ``None`` where its text has no vector, or none in time."""
        fields = orjson.loads(question.text)
        text = "\n".join(fields.values())
        loop = asyncio.get_running_loop()
        self._aside = self._aside or ThreadPoolExecutor(1, "alike")
        try:
            async with asyncio.timeout(SHARE_OF_TIME * (until - loop.time())):
                vector = await loop.run_in_executor(self._aside, self._vector, text)
        except TimeoutError:
            return None
        except Exception as error:  # no memory, a file that is none; its text may quote the event
            if self._told != type(error).__name__:
                self._told = type(error).__name__
                log.warning("the model for texts that are alike: %s", self._told)
            return None
        if vector is None:
            return None
        partition, wording = key_of(question.partition, "\n".join(fields)), Wording.of(text)
        found = self._texts.nearest(partition, vector, wording, loop.time())
        if found is None:
            return Like(partition, vector, wording)
        trust = self.trust(question.prompt)
        verified = trust.verifies(question.id)
        return Like(partition, vector, wording, found, trust.serves and not verified, verified)

    def told(self, question: Question, like: Like, fresh: Said | None) -> str:
        """What a real answer says of the one that was found, which counts: ``right`` or ``wrong``. Where the real one
        cannot be used, ``None``, it is wrong: the model would not have said what was kept."""
        assert like.found is not None
        trust = self.trust(question.prompt)
        before = trust.serves
        right = fresh is not None and agree(self._policy, like.found[1], fresh)
        trust.told(right)
        if trust.serves is not before:
            what = "are served" if trust.serves else "are no longer served"
            log.warning(
                "answers to like texts %s: %d of the last %d were wrong, at 95 %% confidence at most %.1f %%",
                what, trust.wrong, trust.verified, 100 * trust.at_most,
            )  # fmt: skip
        return RIGHT if right else WRONG

    def add(self, question: Question, like: Like, kept: Kept, said: Said) -> None:
        """Hold an answer that may be given again."""
        if kept.size <= LONGEST_KEPT:
            until = asyncio.get_running_loop().time() + self._seconds
            self._texts.add(
                like.partition, question.key, question.prompt, like.vector, like.wording, (kept, said), until
            )

    def forget(self, prompt: str) -> None:
        """Let go of what belongs to a prompt, by its hash."""
        self._texts.forget(prompt)
        self._trusts.pop(prompt, None)

    def close(self) -> None:
        """End the thread."""
        if self._aside is not None:
            self._aside.shutdown(wait=False, cancel_futures=True)
