"""What answers to like texts cost, and how often they would be wrong: ``python -m benchmarks.semantic``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from streamproc.core.llm.lexical import Wording
from streamproc.io.llm.minilm import MiniLm, minilm_folder
from tests.fast.semantic_pairs import OTHER, SAME

THRESHOLDS = (0.80, 0.85, 0.90, 0.95, 0.98)
SENTENCE = "Where is my parcel? It should have come on Monday, and nobody answers. "
Pairs = Iterable[tuple[str, str]]


def main() -> None:
    """Print milliseconds of processor time a text, and counts of pairs."""
    model, exact = MiniLm(minilm_folder()), MiniLm(minilm_folder(), exact=True)
    began = time.process_time()
    model.open()
    print(f"{time.process_time() - began:.1f} s to open the model")
    for times in (1, 3, 12):
        text = SENTENCE * times
        small, whole = (_milliseconds(lambda one=one, text=text: one.vector(text)) for one in (model, exact))  # type: ignore[misc]
        print(f"{small:.1f} ms for {len(text)} characters, {whole:.1f} ms in 32 bits")
    texts = [text for pairs in (SAME, *OTHER.values()) for pair in pairs for text in pair]
    print(f"the least cosine of both of {len(texts)} texts: {min(_cosine(model, exact, text) for text in texts):.4f}")
    print(f"{_milliseconds(lambda: Wording.of(SENTENCE * 3)):.2f} ms for the words of {3 * len(SENTENCE)} characters\n")

    def alike(threshold: float, pairs: Pairs) -> list[tuple[str, str]]:
        found = []
        for one, other in pairs:
            first, second = model.vector(one), model.vector(other)
            assert first is not None and second is not None
            if first @ second >= threshold:
                found.append((one, other))
        return found

    def agreeing(pairs: Pairs) -> int:
        return sum(Wording.of(one).agrees(Wording.of(other)) for one, other in pairs)

    count = sum(map(len, OTHER.values()))
    print(f"of {len(SAME)} pairs that are one question, and {count} that are not: alike, and served with the guard")
    for threshold in THRESHOLDS:
        same, served = alike(threshold, SAME), {what: alike(threshold, pairs) for what, pairs in OTHER.items()}
        wrong, guarded = sum(map(len, served.values())), sum(map(agreeing, served.values()))
        by_kind = ", ".join(f"{what} {len(pairs)} → {agreeing(pairs)}" for what, pairs in served.items())
        print(f"{threshold:.2f}: right {len(same)} → {agreeing(same)}, wrong {wrong} → {guarded} ({by_kind})")


def _cosine(one: MiniLm, other: MiniLm, text: str) -> float:
    first, second = one.vector(text), other.vector(text)
    assert first is not None and second is not None
    return float(first @ second)


def _milliseconds(call: Callable[[], object], times: int = 20) -> float:
    """The least processor time of some calls."""
    found = []
    for _ in range(times):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found) * 1e3


if __name__ == "__main__":
    main()
