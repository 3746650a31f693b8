"""Prompts as they stand in files: a folder with a file a version, and the labels that say which are used."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import Field, field_validator

from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.prompts import Prompts
from streamproc.errors import UserError
from streamproc.plan.budgets import Share
from streamproc.plan.parts import Part, Version

LABELS: Final = "labels.yaml"
LARGEST_PROMPT: Final = 256 << 10
MOST_VERSIONS: Final = 1_000
_NUMBER: Final = re.compile(r"[0-9]{0,9}\.?[0-9]{1,9}")
_FENCE: Final = re.compile(r"^---[ \t]*\r?\n", re.MULTILINE)
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
FRONT_HINT: Final = "write `description`, `author` and `created` there, each optional, and `---` before and after"
NOTHING: Final = ("", "~", "null", "Null", "NULL")
Shape = TypeVar("Shape", bound=Part)


class CanaryPart(Part):
    """The version that a share of all keys is given."""

    version: Version = Field(description="The version")
    share: Share = Field(description="Of all keys: `10%`")

    @field_validator("share", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """``0.1`` is read as a text."""
        return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


class LabelsPart(Part):
    """``prompts/NAME/labels.yaml``: which version is which, and what its file must be."""

    production: Version = Field(description="The version that is used")
    canary: CanaryPart | None = Field(None, description="Another one, for a share of the keys")
    versions: dict[Version, str] = Field({}, description="By version, the SHA-256 of its file")


class FrontPart(Part):
    """What stands between two lines ``---`` before a prompt. It is for people."""

    description: str | None = Field(None, description="What is new in it, or what it is for")
    author: str | None = Field(None, description="Who wrote it")
    created: str | None = Field(None, description="When")


@dataclass(frozen=True, slots=True)
class Registry:
    """The folder of a prompt, with its labels."""

    folder: Path
    labels: LabelsPart

    @classmethod
    def of(cls, folder: Path) -> Registry:
        """Read the labels, and look whether any version changed that was registered. Raises UserError."""
        name = folder.name
        try:
            text = (folder / LABELS).read_text("utf-8")
        except OSError as error:
            raise _unreadable(name, LABELS, error) from error
        except UnicodeDecodeError as error:
            raise _not_utf8(name) from error
        except ValueError as error:
            raise UserError("the prompt has a name that no folder can have", "write a path") from error
        hint = "write `production: 1`, and under `versions:` for each version the SHA-256 of its file"
        labels = _said(LabelsPart, text, f"{LABELS} of the prompt {name} does not say which version is used", hint)
        if labels.canary is not None and labels.canary.version == labels.production:
            hint = "name another version, or take `canary` out"
            raise UserError(f"the canary of the prompt {name} is the version of production", hint)
        found = cls(folder, labels)
        for version in labels.versions:
            if (folder / f"{version}.md").exists():
                found.read(version)
        return found

    @property
    def name(self) -> str:
        return self.folder.name

    def versions(self) -> list[str]:
        """The versions that have a file, in their order: numbers by their value."""
        try:
            names = [path.stem for path in self.folder.glob("*.md") if _VERSION.fullmatch(path.stem)]
        except OSError as error:
            raise _unreadable(self.name, self.folder.name, error) from error
        return sorted(names, key=_order)[:MOST_VERSIONS]

    def read(self, version: str) -> Prompt:
        """A version. Raises UserError where it cannot be used, or changed since it was registered."""
        try:
            raw = (self.folder / f"{version}.md").read_bytes()
        except OSError as error:
            raise _unreadable(self.name, f"{version}.md", error) from error
        prompt = parse(self.name, version, raw)
        if self.labels.versions.get(version, prompt.hash) != prompt.hash:
            raise UserError(
                f"version {version} of the prompt {self.name} has changed since it was registered",
                f"a version never changes: save it as a new one, and undo the change of {version}.md",
            )
        return prompt

    def prompts(self) -> Prompts:
        """The versions that are in use. Raises UserError."""
        labels = self.labels
        production = self.read(labels.production)
        if labels.canary is None:
            return Prompts(production, registered=labels.versions)
        return Prompts(production, self.read(labels.canary.version), labels.canary.share, labels.versions)


def read_prompts(folder: Path) -> Prompts:
    """The versions of a prompt that its labels name. Raises UserError where they are not there, or changed."""
    return Registry.of(folder).prompts()


def parse(name: str, version: str, raw: bytes) -> Prompt:
    """A version of a prompt, of its file's bytes. Raises UserError where it is none."""
    what = f"version {version} of the prompt {name}"
    if not _VERSION.fullmatch(version):
        raise UserError(f"{version!r} is no name of a version", "use letters, digits, and . _ - between them")
    if len(raw) > LARGEST_PROMPT:
        raise UserError(f"{what} is too large", "256 kB is the most")
    try:
        whole = raw.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(name) from error
    text = whole[_front(what, whole) :]
    if not text.strip():
        raise UserError(f"{what} is empty", "write what the model is to do")
    return Prompt(name, version, text, hashlib.sha256(raw).hexdigest(), whole[: len(whole) - len(text)])


def front_of(prompt: Prompt) -> FrontPart:
    """What a version says of itself."""
    return _said(
        FrontPart, _FENCE.sub("", prompt.front), f"what stands before {prompt.label} cannot be read", FRONT_HINT
    )


def labels_text(labels: LabelsPart) -> bytes:
    """``labels.yaml`` as it is written."""
    told: dict[str, object] = {"production": labels.production}
    if labels.canary is not None:
        told["canary"] = {"version": labels.canary.version, "share": in_percent(labels.canary.share)}
    told["versions"] = {version: labels.versions[version] for version in sorted(labels.versions, key=_order)}
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True).encode()


def in_percent(share: int) -> str:
    """Millionths as people write them.

    >>> in_percent(100_000), in_percent(1), in_percent(1_000_000)
    ('10%', '0.0001%', '100%')
    """
    return f"{share / 10_000:.4f}".rstrip("0").rstrip(".") + "%"


def registered(labels: LabelsPart, prompts: Prompts) -> LabelsPart:
    """The labels with these versions in use, and the hashes of these registered."""
    share = in_percent(prompts.share)
    canary = None if prompts.canary is None else CanaryPart(version=prompts.canary.version, share=share)  # type: ignore[arg-type]
    hashes: Mapping[str, str] = {one.version: one.hash for one in prompts.versions}
    return LabelsPart(production=prompts.production.version, canary=canary, versions={**labels.versions, **hashes})


def _front(what: str, whole: str) -> int:
    """Where the prompt begins in its file: behind what stands between two lines ``---``, if anything does."""
    begin = _FENCE.match(whole)
    if begin is None:
        return 0
    end = _FENCE.search(whole, begin.end())
    if end is None:
        raise UserError(f"{what} begins with `---`, and no second line ends what begins there", FRONT_HINT)
    _said(FrontPart, whole[begin.end() : end.start()], f"what stands before {what} cannot be read", FRONT_HINT)
    return end.end()


class _Texts(yaml.BaseLoader):
    """YAML in which each value is a text, or nothing: no text is guessed to be a date or a number, whatever its tag
    says, and nothing stands in two places, so that what is read is no larger than what is written."""

    def construct_scalar(self, node: Any) -> Any:
        """A text; ``None`` where nothing is written, or `null`."""
        text = super().construct_scalar(node)
        return None if isinstance(node, yaml.ScalarNode) and node.style is None and text in NOTHING else text

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _said(shape: type[Shape], text: str, wrong: str, hint: str) -> Shape:
    """What YAML says, in its shape. Raises UserError for all that is no such YAML: much of it comes from a topic."""
    try:
        return shape.model_validate(yaml.load(text, _Texts) or {})  # noqa: S506 (it makes texts alone)
    except Exception as error:  # for an escape or a number out of range, a YAML parser has exceptions of any kind
        raise UserError(wrong, hint) from error


def _order(version: str) -> tuple[int, int, str]:
    return (0, int(version), "") if version.isdecimal() else (1, 0, version)


def _unreadable(name: str, file: str, error: OSError) -> UserError:
    hint = "a prompt is a folder with `1.md` and `labels.yaml`, where `production: 1` stands"
    return UserError(f"cannot read {file} of the prompt {name}: {error.strerror}", hint)


def _not_utf8(name: str) -> UserError:
    return UserError(f"the prompt {name} is not UTF-8", "save its files as UTF-8")
