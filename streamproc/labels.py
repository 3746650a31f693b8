"""The labels of prompts: changing them, saying so to workers, and what of it counts where a worker hears it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

from streamproc.core.control import PROMPT_KEY, NewLabels, PromptFile
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.prompts import MILLION, Prompts
from streamproc.core.plan import Plan
from streamproc.errors import UserError
from streamproc.plan.inspect import ModelFacts
from streamproc.plan.llm import ROOM_HINT, too_long
from streamproc.plan.load import Loaded, load_plan
from streamproc.plan.names import near
from streamproc.plan.prompts import LABELS, Registry, in_percent, labels_text, parse, registered
from streamproc.plan.scoring import placed
from streamproc.whole_file import writing

log = logging.getLogger(__name__)

Label: TypeAlias = Literal["production", "canary"]


@dataclass(frozen=True, slots=True)
class Used:
    """A prompt that a pipeline uses: its files, and the language models that are given it."""

    registry: Registry
    llms: tuple[LlmPlan, ...]

    def fits(self, prompts: Prompts) -> None:
        """Raises UserError where a version leaves too little room for the texts of an event."""
        if wrong := _too_long(self.llms, prompts):
            raise UserError(wrong, ROOM_HINT)


def load_prompts(file: Path) -> tuple[Loaded, dict[str, Used]]:
    """A pipeline file without its models, and by name the prompts that it uses. Raises UserError."""
    loaded = load_plan(file, lambda *_: ModelFacts(""))
    llms = loaded.plan.language_models
    found: dict[str, Used] = {}
    for group in placed(loaded.file):
        for _, name, part in group:
            if part.llm is None:
                continue
            folder = loaded.path.parent / part.llm.prompt
            own = found.get(folder.name) or Used(Registry.of(folder), ())
            found[folder.name] = Used(own.registry, (*own.llms, llms[name]))
    return loaded, found


def the_prompt(found: Mapping[str, Used], name: str) -> Used:
    """A prompt by its name. Raises UserError where the pipeline uses none of it."""
    if name not in found:
        raise UserError(f"the pipeline uses no prompt {name!r}", near(name, found, "prompts"))
    return found[name]


def relabelled(used: Used, label: Label, version: str | None, share: int) -> Prompts:
    """The versions in use where a label is given to another version; to none, the canary is over.

    Whatever becomes production is no canary any more. Raises UserError for what cannot be used.
    """
    registry, now = used.registry, used.registry.prompts()
    if version is not None and version not in (known := registry.versions()):
        raise UserError(f"the prompt {registry.name} has no version {version!r}", near(version, known, "versions"))
    if label == "production":
        if version is None:
            raise UserError("production is always some version", "name it")
        keep = now.canary is not None and now.canary.version != version
        made = Prompts(registry.read(version), now.canary if keep else None, now.share if keep else 0)
    elif version is None:
        made = Prompts(now.production)
    elif version == now.production.version:
        raise UserError(f"version {version} is that of production", "name another one as the canary")
    else:
        made = Prompts(now.production, registry.read(version), share)
    used.fits(made)
    return made


def write(registry: Registry, prompts: Prompts) -> None:
    """Write ``labels.yaml`` with these versions in use, and their hashes registered."""
    with writing(registry.folder / LABELS) as file:
        file.write(labels_text(registered(registry.labels, prompts)))


def record_of(pipeline: str, prompts: Prompts, time: datetime, by: str, why: str) -> NewLabels:
    """What is said to workers."""
    canary = None if prompts.canary is None else _file_of(prompts.canary)
    share = 0.0 if canary is None else prompts.share / MILLION
    said = {"production": _file_of(prompts.production), "canary": canary, "share": share}
    return NewLabels(pipeline=pipeline, time=time, by=by, why=why, prompt=prompts.name, **said)  # type: ignore[arg-type]


def prompts_of(said: NewLabels) -> Prompts:
    """What was said. Raises UserError where a text is none, or another one than its hash says, or where one version
    has two."""
    canary = None if said.canary is None else _prompt_of(said.prompt, said.canary)
    production = _prompt_of(said.prompt, said.production)
    if canary is not None and canary.version == production.version and canary.hash != production.hash:
        raise UserError(f"version {canary.version} is two texts, and a version never changes")
    return Prompts(production, canary, round(said.share * MILLION))


def in_words(prompts: Prompts) -> str:
    """The versions in use, for people.

    >>> in_words(Prompts(Prompt("triage", "1", "", ""), Prompt("triage", "2", "", ""), 100_000))
    'production 1, canary 2 for 10%'
    """
    canary = "" if prompts.canary is None else f", canary {prompts.canary.version} for {in_percent(prompts.share)}"
    return f"production {prompts.production.version}{canary}"


def agree(was: Prompts, prompts: Prompts, label: Label) -> None:
    """Raises UserError where what is said now would undo what workers use by the other label, or is of another text."""
    texts = {one.version: one.hash for one in was.versions}
    for one in prompts.versions:
        if texts.get(one.version, one.hash) != one.hash:
            message = f"workers use another text as version {one.version} than stands in {one.version}.md"
            raise UserError(message, "a version never changes: save yours as a new one")
    if label == "canary":
        same = was.production == prompts.production
    else:
        stays = None if was.canary == prompts.production else was.canary
        same = prompts.canary == stays and (stays is None or was.share == prompts.share)
    if not same:
        raise UserError(
            f"workers use {in_words(was)}, and {LABELS} says otherwise",
            "bring the file to that first, with `--file-only`: else this would undo it",
        )


class Labels:
    """What of the labels on the control topic counts for a worker, from the first look to the last.

    What does not count, because it is not signed as it should be or cannot be used, changes nothing: what counted
    before it still does, and else what the files say. ``counted`` is, by the names of prompts, what counts and what
    that means; ``wrong`` is why the newest record does not.
    """

    def __init__(self, plan: Plan, signed: bool, is_sound: Callable[[NewLabels], bool]) -> None:
        """``signed``: only what is signed counts, as ``is_sound`` finds."""
        self._llms: dict[str, list[LlmPlan]] = {}
        for llm in plan.language_models.values():
            self._llms.setdefault(llm.prompt.name, []).append(llm)
        self._signed, self._is_sound = signed, is_sound
        self.counted: dict[str, tuple[NewLabels, Prompts]] = {}
        self.wrong: dict[str, str] = {}
        self._told: dict[str, NewLabels] = {}
        self._known: dict[tuple[str, str], str] = {}
        for name, (llm, *_) in self._llms.items():
            used = {one.version: one.hash for one in llm.prompts.versions}
            self._known |= {(name, version): own for version, own in {**llm.registered, **used}.items()}

    def hear(self, said: Mapping[str, NewLabels], keys: Collection[bytes] = ()) -> Mapping[str, Prompts]:
        """The versions in use that were said, by the names of prompts. There are records under these ``keys``: one
        that is not among what was ``said`` cannot be read."""
        for name in self._llms:
            if name in said:
                if said[name] != self._told.get(name):
                    self._told[name] = said[name]
                    self._hear(name, said[name])
            elif PROMPT_KEY + name.encode() in keys:
                self.wrong[name] = "it cannot be read"
            elif name in self.counted:
                self._deleted(name)
            else:
                self.wrong.pop(name, None)
        return self.prompts

    @property
    def prompts(self) -> Mapping[str, Prompts]:
        """The versions in use that were said, by the names of prompts."""
        return {name: prompts for name, (_, prompts) in self.counted.items()}

    @property
    def lost(self) -> frozenset[str]:
        """The prompts of which the newest record does not count, and none before it was heard."""
        return frozenset(self.wrong.keys() - self.counted.keys())

    def recall(self, said: Iterable[NewLabels]) -> None:
        """Hear of those that are lost all that was ever said, in its order, like one who was there all the time."""
        lost, wrong = self.lost, dict(self.wrong)
        for one in said:
            if one.prompt in lost:
                self._hear(one.prompt, one)
        self.wrong = wrong

    def _deleted(self, name: str) -> None:
        if self._signed:
            log.warning("the labels of prompt %s on the control topic were deleted: they hold all the same", name)
            return
        del self.counted[name]
        self._told.pop(name, None)
        self.wrong.pop(name, None)
        log.warning("the labels of prompt %s on the control topic were deleted: the files' hold", name)

    def _hear(self, name: str, said: NewLabels) -> None:
        """Let it count, or say why it does not. Anything may stand on a topic, so nothing is raised."""
        try:
            prompts = self._usable(name, said)
        except UserError as error:
            self.wrong[name] = error.message
            log.warning("what %s said of prompt %s does not count: %s", said.by, name, error)
            return
        except Exception as error:  # it would end each worker, again and again
            self.wrong[name] = f"it cannot be used: {error!r}"
            log.exception("what %s said of prompt %s does not count", said.by, name)
            return
        self.wrong.pop(name, None)
        self.counted[name] = said, prompts
        self._known |= {(name, one.version): one.hash for one in prompts.versions}
        own = self._llms[name][0].prompts
        files = "" if prompts == own else f" (its files say: {in_words(own)})"
        log.info("prompt %s: %s, says %s: %s%s", name, in_words(prompts), said.by, said.why, files)

    def _usable(self, name: str, said: NewLabels) -> Prompts:
        before = self.counted.get(name)
        if not self._is_sound(said):
            raise UserError("it is not signed as it should be")
        if self._signed and before is not None and said.time < before[0].time:
            raise UserError("it is an old record again")
        prompts = prompts_of(said)
        for one in prompts.versions:
            if self._known.get((name, one.version), one.hash) != one.hash:
                raise UserError(f"version {one.version} is another text than before, and a version never changes")
        if wrong := _too_long(self._llms[name], prompts):
            raise UserError(wrong)
        return prompts


def _too_long(llms: Sequence[LlmPlan], prompts: Prompts) -> str | None:
    wrong = (too_long(llm, one) for llm in llms for one in prompts.versions if not llm.takes(one))
    return next(wrong, None)


def _file_of(prompt: Prompt) -> PromptFile:
    return PromptFile(prompt.version, prompt.hash, prompt.file)


def _prompt_of(name: str, said: PromptFile) -> Prompt:
    prompt = parse(name, said.version, said.text.encode(errors="surrogatepass"))
    if prompt.hash != said.hash:
        raise UserError(f"the text of version {said.version} is not that of its SHA-256")
    return prompt
