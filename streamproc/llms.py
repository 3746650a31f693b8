"""Opens the language models that a pipeline file names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from streamproc.core.llm.latency import LatencyPolicy
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.names import VARIABLE
from streamproc.io.llm.classifier import open_classifier
from streamproc.io.llm.endpoint import Endpoint
from streamproc.io.llm.model import LlmModel, LlmPolicy
from streamproc.io.variables import filled
from streamproc.plan.llm_parts import LlmPart
from streamproc.plan.parts import BreakerPart
from streamproc.stores import policy_of

MILLION = 1_000_000
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
    bounds = [part.input, part.budget.model_dump(), part.cut, part.most_chars, part.bytes_per_token]
    guard = None if part.guards is None else open_classifier(part.guards.classifier, folder)
    more = [*([] if guard is None else [guard.version]), *([part.confidence] if plan.sureness else [])]
    identity = [asdict(plan.prompt), plan.output.schema, bounds, *more]
    return LlmModel(endpoints, LlmPolicy(part.model, part.parameters, latency, part.in_flight), plan, identity, guard)
