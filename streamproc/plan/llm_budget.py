"""The part of a file about what a language model may spend, and how often it may be asked."""

from __future__ import annotations

from datetime import timedelta

from streamproc.core.llm.budget import BudgetPlan, Limit, Price
from streamproc.core.llm.rates import LimitsPlan
from streamproc.core.plan import CONFIDENCE, SCORE
from streamproc.errors import EnvironmentFault
from streamproc.plan.amounts import MICROSECOND, MILLION, Amount, Money
from streamproc.plan.document import Document, Path_
from streamproc.plan.llm_parts import LlmBudgetPart, LlmPart
from streamproc.plan.models import PipelineFile
from streamproc.plan.names import near
from streamproc.plan.prices import known_price
from streamproc.plan.scope import Scope

DAY = timedelta(days=1) // MICROSECOND


def budget_of(document: Document, at: Path_, part: LlmPart, file: PipelineFile, scope: Scope) -> BudgetPlan:
    """What it may spend. What is wrong with it is noted."""
    budget, own = part.budget, (*at, "budget")
    of_key = budget.tokens_per_key
    tokens = None if of_key is None else Limit(of_key.limit, of_key.per // MICROSECOND)
    money = None if budget.money_per_day is None else Limit(budget.money_per_day.micros, DAY)
    if of_key is not None:
        here: Path_ = (*own, "tokens_per_key")
        known = _check_column(document, (*here, "by"), of_key.by, scope)
        if of_key.limit < budget.tokens_per_request and not document.is_broken((*here, "limit")):
            message = f"a key has {of_key.limit:,} tokens, and a request can take {budget.tokens_per_request:,}"
            document.problem((*here, "limit"), message, "raise it, or lower `tokens_per_request`")
        if known and part.redis is None and not document.is_broken((*at, "redis")):
            _check_lanes(document, (*here, "by"), of_key.by, file)
    price = _price(document, at, part)
    if money is not None and price is not None:
        most = price.of(budget.tokens_per_request - budget.answer, budget.answer)
        if most > money.most:
            message = f"a request can cost {most / MILLION:g}, which is more than `money_per_day`"
            document.problem((*own, "money_per_day"), message, "raise it, or lower `tokens_per_request`")
    return BudgetPlan(None if of_key is None else of_key.by, tokens, money, price, in_lanes=part.redis is None)


def limits_of(document: Document, at: Path_, part: LlmPart, scope: Scope) -> LimitsPlan:
    """How often it may be asked. What is wrong with it is noted."""
    limits = part.limits
    if limits.per is None:
        return LimitsPlan(limits.requests)
    (by, each), *others = limits.per.items()
    if others:
        message = "requests are limited by one field, and here are several"
        document.problem((*at, "limits", "per", others[0][0]), message, "keep one of them", at_key=True)
    _check_column(document, (*at, "limits", "per", by), by, scope, at_key=True)
    return LimitsPlan(limits.requests, by, each)


def _check_column(document: Document, at: Path_, name: str, scope: Scope, *, at_key: bool = False) -> bool:
    if document.is_broken(at) or scope.open or name in scope.uncertain:
        return True
    known = set(scope.known) - {SCORE, CONFIDENCE} - set(scope.of_models)
    if name not in known:
        message = f"`{name}` is no field and no feature"
        document.problem(at, message, near(name, known, "columns"), at_key=at_key)
    return name in known


def _check_lanes(document: Document, at: Path_, by: str, file: PipelineFile) -> None:
    """Without a Redis each lane counts for itself, so all events of a key have to come to one lane."""
    if by != (file.events.repartition_by or file.events.key) and not document.is_broken(at):
        message = f"tokens of each `{by}` can be counted only where all of its events come in one partition"
        hint = (
            f"write `redis: ${{REDIS_URL}}` beside `budget`, or `events: {{repartition_by: {by}}}`,"
            f" or `events: {{key: {by}}}` if the topic is keyed by it"
        )
        document.problem(at, message, hint)


def _price(document: Document, at: Path_, part: LlmPart) -> Price | None:
    """What tokens cost, by the file or else by the model's name; all in one currency."""
    budget: LlmBudgetPart = part.budget
    asked: Money | None = budget.money_per_day
    if part.price is not None:
        amounts: list[tuple[Path_, Amount]] = [((*at, "price", "output"), part.price.output)]
        if asked is not None:
            amounts.append(((*at, "budget", "money_per_day"), asked))
        for path, amount in amounts:
            if amount.currency != part.price.input.currency and not document.is_broken(path):
                message = f"this is in {amount.currency}, and the price of the input in {part.price.input.currency}"
                document.problem(path, message, "write all of them in one currency")
        return Price(part.price.input.micros, part.price.output.micros)
    if asked is None or document.is_broken((*at, "price")) or document.is_broken((*at, "budget")):
        return None
    place: Path_ = (*at, "budget", "money_per_day")
    if asked.currency != "USD":
        message = f"prices that are known are in USD, and this is in {asked.currency}"
        document.problem(place, message, "add `price: {input: …, output: …}` for a million tokens")
        return None
    try:
        price = known_price(part.model, budget.tokens_per_request)
    except EnvironmentFault as fault:
        document.fault = fault
        return None
    if price is None:
        message = f"nobody knows what the model {part.model!r} costs"
        document.problem(place, message, "add `price: {input: 2.50 USD, output: 10 USD}`, for a million tokens")
    return price
