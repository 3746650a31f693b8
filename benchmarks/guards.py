"""What the guards of language models catch and flag, and what they cost: ``python -m benchmarks.guards``."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.llm.guard import FLAG_ABOVE, guarded
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.request import requests
from streamproc.core.llm.text import cleaned
from streamproc.io.llm.classifier import PACKAGE, Classifier, open_classifier
from tests.fast.llm_texts import ATTACKS, HARMLESS

OUTPUT = Contract({"type": "object", "properties": {"score": {"type": "number"}}})
PLAN = LlmPlan("llm", ("body",), Prompt("triage", "1", "Say how urgent it is.", "00" * 32), OUTPUT)
MOST = 20_000
ROWS = 200
CLASSIFIED = 20


def main() -> None:
    """Print the rates, and the time of what is done for an event before its model is asked."""
    classifier = open_classifier(PACKAGE, Path())
    for what, texts in (("attacks", ATTACKS), ("harmless texts", HARMLESS)):
        _rates(what, [cleaned(text, MOST).text for text in texts], list(texts), classifier)
    for size in (200, 2_000, 20_000):
        body = ("Where is my parcel? It should have come on Monday, and nobody answers. " * 300)[:size]
        frame, ids = pl.DataFrame({"body": [body] * ROWS}), [f"0-{row}" for row in range(ROWS)]
        began = time.process_time()
        requests(PLAN, frame, ids)
        guards = (time.process_time() - began) / ROWS * 1e6
        began = time.process_time()
        for _ in range(CLASSIFIED):
            classifier.score(body)
        more = (time.process_time() - began) / CLASSIFIED * 1e3
        print(f"{guards:,.0f} us for a text of {size:,} characters, and the classifier {more:,.1f} ms")


def _rates(what: str, clean: list[str], texts: list[str], classifier: Classifier) -> None:
    """How many are riskier than what is shown to a model: by guards, by the classifier alone, and by both."""
    found = [guarded(cleaned(text, MOST)) for text in texts]
    said = [classifier.score(text) for text in clean]
    guards = sum(one.risk > FLAG_ABOVE for one in found)
    alone = sum(one > FLAG_ABOVE for one in said)
    both = sum(one.risk_with(own) > FLAG_ABOVE for one, own in zip(found, said, strict=True))
    print(f"of {len(texts)} {what} are riskier than {FLAG_ABOVE}: {guards} by guards,", end=" ")
    print(f"{alone} by the classifier alone, {both} by both")


if __name__ == "__main__":
    main()
