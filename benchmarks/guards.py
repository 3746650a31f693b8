"""What the guards of language models catch and flag, and what they cost: ``python -m benchmarks.guards``."""

from __future__ import annotations

import time

import polars as pl

from streamproc.core.contract import Contract
from streamproc.core.llm.guard import FLAG_ABOVE, guarded
from streamproc.core.llm.policy import LlmPlan
from streamproc.core.llm.prompt import Prompt
from streamproc.core.llm.request import requests
from streamproc.core.llm.text import cleaned
from tests.fast.llm_texts import ATTACKS, HARMLESS

OUTPUT = Contract({"type": "object", "properties": {"score": {"type": "number"}}})
PLAN = LlmPlan("llm", ("body",), Prompt("triage", "1", "Say how urgent it is.", "00" * 32), OUTPUT)
MOST = 20_000
ROWS = 200


def main() -> None:
    """Print the rates, and the time of what is done for an event before its model is asked."""
    for what, texts in (("attacks", ATTACKS), ("harmless texts", HARMLESS)):
        above = sum(guarded(cleaned(text, MOST)).risk > FLAG_ABOVE for text in texts)
        print(f"{above} of {len(texts)} {what} are riskier than {FLAG_ABOVE}")
    for size in (200, 2_000, 20_000):
        body = ("Where is my parcel? It should have come on Monday, and nobody answers. " * 300)[:size]
        frame, ids = pl.DataFrame({"body": [body] * ROWS}), [f"0-{row}" for row in range(ROWS)]
        began = time.process_time()
        requests(PLAN, frame, ids)
        print(f"{(time.process_time() - began) / ROWS * 1e6:,.0f} us for a text of {size:,} characters")


if __name__ == "__main__":
    main()
