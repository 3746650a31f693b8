"""Features with memory: what is aggregated, by which key, how far back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from streamproc.core.expressions import Expression, Want
from streamproc.core.windows.policy import BUCKETS, WindowFeature, WindowsPolicy
from streamproc.plan.document import Document, Path_
from streamproc.plan.durations import in_words
from streamproc.plan.feature_parts import WindowPart
from streamproc.plan.models import PipelineFile
from streamproc.plan.names import near
from streamproc.plan.scope import Scope

MICROSECOND = timedelta(microseconds=1)
MAX_AHEAD = timedelta(hours=1)
ALONE = frozenset({"count", "rate", "time_since_last"})
"""What can be computed without `of`: of the events themselves."""
NUMBERS = frozenset({"sum", "mean", "min", "max", "std", "last", "first", "zscore"})


def make_window(
    document: Document, file: PipelineFile, scope: Scope, name: str, derived: Mapping[str, str]
) -> WindowFeature | None:
    """The feature of this name; ``None`` where it is wrong, which was told. ``derived`` are columns that derive from a
    window, and from which: all windows are worked out at once, so none may read such a one."""
    part, at = file.features[name], ("features", name)
    assert isinstance(part, WindowPart)
    known = len(document.problems)
    _check_shape(document, at, part)
    _check_reach(document, file, at, part)
    wants: Want = "number" if part.agg in NUMBERS else "any"
    of = None if part.of is None else scope.compile((*at, "of"), part.of, want=wants)
    where = None if part.where is None else scope.compile((*at, "where"), part.where, want="boolean")
    whole = (part.of is None or of is not None) and (part.where is None or where is not None)
    if part.by not in scope.known and not (scope.open or part.by in scope.uncertain):
        message = f"`by` names `{part.by}`, which is no field and no feature above"
        document.problem((*at, "by"), message, near(part.by, scope.known, "columns"))
    _check_derived(document, at, part, (of, where), derived)
    if len(document.problems) > known or not whole or part.by not in scope.known:
        return None
    window = None if part.window is None else part.window // MICROSECOND
    unit = 1 if part.exact or window is None else max(1, -(-window // BUCKETS))
    return WindowFeature(name, part.by, part.agg, window, unit, of, where, part.include_self, part.most)


def windows_policy(document: Document, file: PipelineFile) -> WindowsPolicy:
    """What holds for all windows."""
    part = file.windows
    longest = max(
        (one.window for one in file.features.values() if isinstance(one, WindowPart) and one.window), default=None
    )
    if longest is not None and part.ttl < longest + part.lateness:
        document.problem(
            ("windows", "ttl") if document.has(("windows", "ttl")) else ("windows",),
            f"keys are forgotten after {in_words(part.ttl)}, and a window with lateness reaches back"
            f" {in_words(longest + part.lateness)}",
            f"write `ttl: {in_words(longest + part.lateness)}`, or more",
        )
    return WindowsPolicy(part.lateness, part.ttl, part.max_keys)


def max_ahead(file: PipelineFile) -> timedelta | None:
    """How far in the future an event's time may be: with windows there is a bound, since such an event would make all
    others of its key seem late."""
    windows = any(isinstance(part, WindowPart) for part in file.features.values())
    return file.events.max_ahead or (MAX_AHEAD if windows else None)


def _check_shape(document: Document, at: Path_, part: WindowPart) -> None:
    if part.of is None and part.agg not in ALONE:
        document.problem(at, f"`{part.agg}` needs `of`", "say of what: a field, a feature, or an expression")
    if part.agg in ("rate", "distinct") and part.window is None:
        document.problem(at, f"`{part.agg}` needs a window", "say how far it reaches back, like `window: 24h`")
    if part.exact and part.window is None:
        document.problem((*at, "exact"), "`exact` is for windows: without one, all earlier events count", "take it out")
    if document.has((*at, "most")) and part.agg != "distinct":
        document.problem((*at, "most"), f"`most` is for `distinct`, not for `{part.agg}`", "take it out")


def _check_reach(document: Document, file: PipelineFile, at: Path_, part: WindowPart) -> None:
    """Windows are right only where all events of a key come to one lane."""
    keyed = file.events.repartition_by or file.events.key
    if part.by != keyed:
        document.warn(
            (*at, "by"),
            f"a window by `{part.by}` sees all earlier events only where those of one value come in one partition",
            f"write `events: {{key: {part.by}}}` if the topic is keyed by it, or `repartition_by: {part.by}`",
        )


def _check_derived(
    document: Document,
    at: Path_,
    part: WindowPart,
    expressions: tuple[Expression | None, Expression | None],
    derived: Mapping[str, str],
) -> None:
    read = {name for expression in expressions if expression is not None for name in expression.columns} | {part.by}
    for name in sorted(read & set(derived)):
        document.problem(
            at,
            f"it reads `{name}`, which derives from the window `{derived[name]}`",
            "windows read fields, and features that derive from no window",
        )
