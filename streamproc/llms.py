"""Opens the language models that a pipeline file names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from streamproc.core.llm.latency import LatencyPolicy
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.llm.tokens import Counted
from streamproc.core.names import VARIABLE
from streamproc.io.llm.alike import Alike
from streamproc.io.llm.cache import AnswerCache
from streamproc.io.llm.classifier import open_classifier
from streamproc.io.llm.endpoint import Endpoint
from streamproc.io.llm.kept import MemoryStore, RedisStore, Store
from streamproc.io.llm.minilm import MiniLm, minilm_folder
from streamproc.io.llm.model import LlmModel, LlmPolicy
from streamproc.io.llm.shared import Shared
from streamproc.io.llm.vectors import Vectors, threads_here
from streamproc.io.variables import filled
from streamproc.plan.llm_parts import LlmPart
from streamproc.plan.parts import BreakerPart
from streamproc.stores import policy_of

MILLION = 1_000_000
DEADLINES = 3
"""For so many deadlines a reservation waits for its owner."""
UNSET = "http://unset.invalid/v1"
"""Stands for an address from a variable, where a file is only checked."""


def open_llm(
    part: LlmPart, plan: LlmPlan, breaker: BreakerPart, environ: Mapping[str, str] | None, folder: Path
) -> LlmModel:
    """The model, with the classifier before it. Raises UserError where an address or a variable is none.

    Without an environment nothing is asked: the addresses need not be there.
    """
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if part.key is not None and environ is not None:
        headers["Authorization"] = f"Bearer {filled(part.key, environ, '`model.llm.key`').strip()}"
    urls = part.endpoint if environ is None else [filled(one, environ, "`model.llm.endpoint`") for one in part.endpoint]
    endpoints = [
        Endpoint(UNSET if environ is None and VARIABLE.search(url) else url, headers, policy_of(breaker))
        for url in urls
    ]
    latency = LatencyPolicy(
        p95=part.latency.p95.total_seconds(),
        p99=part.latency.p99.total_seconds(),
        hedges=part.latency.hedges / MILLION,
    )
    request = {"tokens_per_request": part.budget.tokens_per_request, "answer": part.budget.answer}
    bounds: list[object] = [part.input, request, part.cut, part.most_chars, part.bytes_per_token]
    if isinstance(plan.counter, Counted):
        bounds.append(plan.counter.version)
    if plan.tokens_around:
        bounds.append({"tokens_around": plan.tokens_around})
    guard = None if part.guards is None else open_classifier(part.guards.classifier, folder)
    more = [*([] if guard is None else [guard.version]), *([part.confidence] if plan.sureness else [])]
    # Not the prompt: which version an event is given changes while a worker runs, and stands in its decision.
    identity = [plan.output.schema, bounds, *more]
    kept = DEADLINES * part.deadline.total_seconds()
    policy = LlmPolicy(part.model, part.parameters, latency, part.in_flight, kept)
    if environ is None:
        return LlmModel(endpoints, policy, plan, identity, guard=guard)
    redis = None if part.redis is None else filled(part.redis, environ, "`model.llm.redis`")
    shared, cache = _shared(plan, redis), _cache(part, plan, redis)
    return LlmModel(endpoints, policy, plan, identity, shared=shared, cache=cache, guard=guard)


def _shared(plan: LlmPlan, redis: str | None) -> Shared | None:
    """The Redis in which workers share what they spent and their rates, where there is anything to be shared."""
    if redis is None or not (plan.budget.is_limited or plan.limits.is_limited):
        return None
    # What stands in braces says where a cluster keeps a key: all of a model's are together, as scripts want it.
    return Shared(redis, f"streamproc:{{{plan.pipeline}:{plan.prefix}}}")


def _cache(part: LlmPart, plan: LlmPlan, redis: str | None) -> AnswerCache | None:
    """What keeps its answers."""
    policy = plan.cache
    if policy is None:
        return None
    store: Store = MemoryStore(policy.most, policy.most_bytes, policy.seconds)
    if redis is not None:
        store = RedisStore(redis, f"streamproc:{plan.pipeline}:llm-cache:", policy.seconds)
    alike = None
    if policy.semantic is not None:
        model = MiniLm(minilm_folder())
        alike = Alike(policy.semantic, policy.seconds, Vectors(model.vector, threads_here()))
    return AnswerCache(plan, policy, part.model, part.parameters, store, alike)
