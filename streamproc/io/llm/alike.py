"""Answers to texts that are alike, and whether they may be served."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import orjson

from streamproc.core.llm.cache import Question, Said, key_of
from streamproc.core.llm.cache_policy import RIGHT, WRONG, SemanticPolicy
from streamproc.core.llm.lexical import Wording
from streamproc.core.llm.nearby import Nearby, Vector
from streamproc.core.llm.trust import Trust, agree
from streamproc.io.llm.kept import Kept
from streamproc.io.llm.minilm import MOST_CHARS
from streamproc.io.llm.minilm_graph import WIDTH
from streamproc.io.llm.vectors import Making, Vectors

log = logging.getLogger(__name__)

SHARE_OF_TIME: Final = 0.25
"""Of the time that there is for a row, it waits no longer for its vector."""
MOST_OTHERS: Final = 8
"""So many held texts are made vectors of for one that may be like them."""
LONGEST_KEPT: Final = 4_096
"""Bytes of an answer that is held beside a vector."""
MOST_PROMPTS: Final = 64
"""So many are known how far they can be trusted."""


@dataclass(eq=False, slots=True)
class Look:
    """The look for a text like that of a question, until ``until`` in seconds of the loop's clock. What is found is
    given where it ``serves``, and where it is to be ``verified`` the row is asked about all the same."""

    question: Question
    partition: bytes
    text: str
    wording: Wording
    until: float
    serves: bool
    verified: bool
    forgets: int
    """So often a prompt was forgotten before."""
    making: Making | None = None
    """Its vector. ``None`` as long as there is nothing that it could be like."""
    awaited: Sequence[Making] = ()
    """It, and those of texts that it could be like, as long as they are to come soon."""
    found: tuple[Kept, Said] | None = None


class Alike:
    """Texts and their answers in the memory of this process, each for ``seconds``. ``vectors`` makes vectors of texts,
    for which no row waits longer than the policy says; all is called on one event loop."""

    def __init__(self, policy: SemanticPolicy, seconds: float, vectors: Vectors) -> None:
        self._policy, self._seconds, self._vectors = policy, seconds, vectors
        self._texts = Nearby[tuple[Kept, Said]](policy.most, policy.threshold, WIDTH)
        self._trusts = OrderedDict[str, Trust]()
        self._given = dict[tuple[bytes, bytes], Making]()
        """By partition and key the vectors on their way to texts that are held."""
        self._forgets = 0

    def warm_up(self) -> None:
        """Have the first vector be made, from any thread."""
        self._vectors.warm_up()

    def trust(self, prompt: str) -> Trust:
        """What is known of answers to a prompt, by its hash."""
        found = self._trusts.setdefault(prompt, Trust(self._policy))
        self._trusts.move_to_end(prompt)
        if len(self._trusts) > MOST_PROMPTS:
            self._trusts.popitem(last=False)
        return found

    def look(self, question: Question, until: float) -> Look:
        """Begin to look for what there is for a question. Whoever does has to ``end`` it."""
        fields = orjson.loads(question.text)
        partition, text = key_of(question.partition, "\n".join(fields)), "\n".join(fields.values())
        now, trust, wording = asyncio.get_running_loop().time(), self.trust(question.prompt), Wording.of(text)
        verified = trust.verifies(question.id)
        until = now + min(self._policy.wait, SHARE_OF_TIME * (until - now))
        look = Look(question, partition, text, wording, until, trust.serves and not verified, verified, self._forgets)
        if (look.serves or verified) and self._texts.has(partition, wording):
            bare = self._texts.without(partition, wording, MOST_OTHERS)
            others = [self._give(partition, key, other) for key, other in bare]
            look.making = self._vectors.make(text, soon=True)
            look.awaited = *others, look.making
        return look

    async def served(self, look: Look) -> Kept | None:
        """The answer that may be given, where it is found in time. Only where one may be is anything waited for."""
        await self._find(look, look.serves)
        if look.serves:
            self._waits_no_more(look)
        return look.found[0] if look.serves and look.found is not None else None

    async def told(self, look: Look, fresh: Said | None) -> str | None:
        """What a real answer says of the one that was found, which counts: ``right`` or ``wrong``; ``None`` where none
        is compared. Where the real one cannot be used, ``None``, it is wrong: the model would not have said what was
        kept."""
        await self._find(look, look.verified)
        if look.found is None or not look.verified:
            return None
        trust = self.trust(look.question.prompt)
        before = trust.serves
        right = fresh is not None and agree(self._policy, look.found[1], fresh)
        trust.told(right)
        if trust.serves is not before:
            what = "are served" if trust.serves else "are no longer served"
            log.warning(
                "answers to like texts %s: %d of the last %d were wrong, at 95 %% confidence at most %.1f %%",
                what, trust.wrong, trust.verified, 100 * trust.at_most,
            )  # fmt: skip
        return RIGHT if right else WRONG

    def add(self, look: Look, kept: Kept, said: Said) -> None:
        """Hold an answer that may be given again, as soon as its text has a vector. Nobody waits for that. It is not
        held where a prompt was forgotten meanwhile: that may be its own."""
        self._waits_no_more(look)
        if kept.size > LONGEST_KEPT or len(look.text) > MOST_CHARS:
            return
        question, until = look.question, asyncio.get_running_loop().time() + self._seconds

        def add(vector: Vector | str) -> None:
            if self._forgets == look.forgets:
                thing = kept, said
                self._texts.add(look.partition, question.key, question.prompt, vector, look.wording, thing, until)

        def made(making: Making) -> None:
            vector = making.vector.result()
            if vector is not None:
                add(vector)
            elif not making.reached:
                add(look.text)  # it is made one of once there is something like it

        if look.making is not None:
            _then(look.making, made)
            look.making = None  # nobody takes it back
        elif self._texts.has(look.partition, look.wording):
            _then(self._vectors.make(look.text, soon=False), made)
        else:
            add(look.text)

    def end(self, look: Look) -> None:
        """Nobody looks any more."""
        self._waits_no_more(look)
        if look.making is not None:
            self._vectors.leave(look.making)

    def forget(self, prompt: str) -> None:
        """Let go of what belongs to a prompt, by its hash."""
        self._forgets += 1
        self._texts.forget(prompt)
        self._trusts.pop(prompt, None)

    async def idle(self) -> None:
        """Wait until all that was added is held."""
        await self._vectors.idle()

    def close(self) -> None:
        """End the threads."""
        self._vectors.close()

    def _give(self, partition: bytes, key: bytes, text: str) -> Making:
        """Make the vector of a text that is held."""
        making = self._vectors.make(text, soon=True)
        if self._given.get((partition, key)) is not making:
            self._given[partition, key] = making
            _then(making, partial(self._made, partition, key))
        return making

    def _made(self, partition: bytes, key: bytes, making: Making) -> None:
        if self._given.get((partition, key)) is making:
            del self._given[partition, key]
        if making.reached:
            self._texts.give(partition, key, making.vector.result())
        else:
            self._texts.put_off(partition, key)

    def _waits_no_more(self, look: Look) -> None:
        """What it waited for may come after what others wait for."""
        for making in look.awaited:
            self._vectors.later(making)
        look.awaited = ()

    async def _find(self, look: Look, waits: bool) -> None:
        """Look what is like it, if its vector is there, or comes in time where that is waited for."""
        if look.making is None or look.found is not None:
            return
        now = asyncio.get_running_loop().time()
        if waits and look.awaited and now < look.until:
            await asyncio.wait({making.vector for making in look.awaited}, timeout=look.until - now)
        if look.making.vector.done() and (vector := look.making.vector.result()) is not None:
            now = asyncio.get_running_loop().time()
            look.found = self._texts.nearest(look.partition, vector, look.wording, now)


def _then(making: Making, then: Callable[[Making], None]) -> None:
    """Do something with a vector, now or once it is there."""
    if making.vector.done():
        then(making)
    else:
        making.vector.add_done_callback(lambda made: then(making))
