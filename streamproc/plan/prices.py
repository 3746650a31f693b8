"""Prices of models, by their names: those that come with the package genai-prices. Nothing is fetched."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from streamproc.core.llm.budget import MILLION, Price
from streamproc.errors import EnvironmentFault


def known_price(model: str, tokens: int) -> Price | None:
    """What a million tokens cost in USD, where requests have up to so many; ``None`` where it is not known.

    Raises EnvironmentFault where the package is not there.
    """
    try:
        from genai_prices import Usage, calc_price
    except ImportError as error:
        hint = "pip install 'streamproc[llm]', or add `price: {input: …, output: …}` to the file"
        raise EnvironmentFault("genai-prices is not installed, which knows what models cost", hint) from error
    try:
        # A large request may be of a dearer tier, so it is asked for one as large as they may be.
        found = calc_price(Usage(input_tokens=tokens, output_tokens=tokens), model)
    except (LookupError, ValueError):
        return None
    own, answer = (
        int((Decimal(part) * MILLION * MILLION / tokens).to_integral_value(ROUND_CEILING))
        for part in (found.input_price, found.output_price)
    )
    return Price(own, answer) if own and answer else None
