"""Budgets of language models in the state of lanes: which events are asked about, and what the lanes keep of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.decide import TABLES, DecideProcessor
from streamproc.core.decide.spending import EXTRA_CALLS, SWEPT, TABLE
from streamproc.core.llm.budget import BudgetPlan, Limit, Price
from streamproc.core.llm.policy import MONEY, TOKENS
from streamproc.core.llm.request import BUDGET_KEY, MOST_CALLS
from streamproc.core.plan import Plan
from streamproc.core.processor import NOTHING_SEEN, Answer, Changes, Score, run
from streamproc.core.sensitive import Masker
from streamproc.core.state import Tables
from streamproc.errors import EnvironmentFault, PipelineError
from streamproc.offline import batch_of
from streamproc.pipeline import SECRET, open_pipeline
from streamproc.testing import run_tests

BOUND = 1_000
HOUR = 3_600_000_000
NOW = datetime(2024, 1, 1, tzinfo=UTC)
PRICE = Price(1_000_000, 1_000_000)
LLM = """
  - id: {id}
    llm:
      endpoint: http://127.0.0.1:1/v1
      model: some-model
      prompt: prompts/triage
      input: [body]
      output: answer.schema.json
      budget: {{tokens_per_request: 1000, answer: 200{budget}}}{more}
"""
FILE = """
pipeline: support
events: {{topic: support.messages, schema: event.schema.json, key: tenant}}
model:{models}
{rest}
confidence: score
rules:
  - {{id: rest, decide: answer}}
actions: {{answer: support.answers}}
"""
BUDGET = ", tokens_per_key: {by: tenant, per: 1h, limit: 3k}"
MONEY_TOO = ", money_per_day: 4.5 USD"
PRICED = "\n      price: {input: 1000 USD, output: 1000 USD}"


def write(folder: Path, budget: str = BUDGET, more: str = "", rest: str = "", models: str = "") -> Path:
    prompt = folder / "prompts/triage"
    prompt.mkdir(parents=True, exist_ok=True)
    schemas: dict[str, dict[str, Any]] = {
        "event": {name: {"type": ["string", "null"]} for name in ("tenant", "body")},
        "answer": {"score": {"type": "number"}},
    }
    for name, properties in schemas.items():
        schema = {"type": "object", "properties": properties}
        (folder / f"{name}.schema.json").write_bytes(orjson.dumps(schema))
    (prompt / "1.md").write_text("Say how urgent it is.")
    (prompt / "labels.yaml").write_text('production: "1"\n')
    models = models or LLM.format(id="llm", budget=budget, more=more)
    (folder / "pipeline.yaml").write_text(FILE.format(models=models, rest=rest))
    return folder / "pipeline.yaml"


def plan_of(folder: Path, *args: Any, **more: Any) -> Plan:
    return open_pipeline(write(folder, *args, **more), masked=False).plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Three requests for each tenant and hour, and 4.5 million tokens' worth of money a day."""
    return plan_of(tmp_path_factory.mktemp("plan"))


def with_budget(plan: Plan, budget: BudgetPlan) -> Plan:
    assert plan.model is not None and plan.model.llm is not None
    return replace(plan, model=replace(plan.model, llm=replace(plan.model.llm, budget=budget)))


class Lanes:
    """Lanes of a processor, and what was asked of which model."""

    def __init__(self, plan: Plan, lanes: int = 2, masker: Masker | None = None) -> None:
        self.plan, self.processor = plan, DecideProcessor.of(plan, masker, lanes=lanes)
        self.tables = [Tables(TABLES) for _ in range(lanes)]
        self.offsets = [0] * lanes
        self.asked: list[Score] = []
        self.changes: list[Changes] = []

    def decide(
        self, batches: Sequence[Sequence[str | None]], took: Any, now: datetime = NOW, *, commits: bool = True
    ) -> list[list[Mapping[str, Any]]]:
        """The decisions of each lane for events of these tenants; ``took`` is what calls cost, by ask."""
        self.asked = []

        def answer(ask: Any) -> Answer:
            self.asked.append(ask)
            given = took(ask)
            if isinstance(given, Answer):
                return given
            count = len(ask.ids)
            tokens = np.array(given, np.float64)
            return Answer(['{"score": 0.5}'] * count, [None] * count, columns={TOKENS: tokens, MONEY: tokens / 1e6})

        made = [
            batch_of(
                self.plan.events.topic,
                [orjson.dumps({"tenant": tenant, "body": "hello"}) for tenant in tenants],
                partition=lane,
                first_offset=self.offsets[lane],
            )
            for lane, tenants in enumerate(batches)
        ]
        effects = run(self.processor.process_lanes(made, self.tables, NOTHING_SEEN, now), answer)
        self.changes = [own.state for own in effects]
        if commits:
            for lane, own in enumerate(effects):
                self.tables[lane].apply(own.state)
                self.offsets[lane] += len(batches[lane])
        return [
            [orjson.loads(value) for out in own.records if out.topic.endswith(".decisions") for value in out.values]
            for own in effects
        ]


def all_of(tokens: float) -> Any:
    return lambda ask: [tokens] * len(ask.ids)


def reasons(decisions: Sequence[Mapping[str, Any]]) -> list[str | None]:
    return [one["score_reason"] for one in decisions]


class PlainAccounts:
    """The same, slowly: one event after another."""

    def __init__(self, budget: BudgetPlan, lanes: int) -> None:
        self.budget, self.lanes, self.spent = budget, lanes, Counter[Any]()

    def accounts(self, lane: int, tenant: str | None, now: int) -> list[tuple[Any, int]]:
        found = []
        if self.budget.tokens is not None:
            limit = self.budget.tokens
            found.append(((lane, "tokens", tenant, now // limit.period), limit.most))
        if self.budget.money is not None:
            limit = self.budget.money
            share = limit.most // self.lanes + (lane < limit.most % self.lanes)
            found.append(((lane, "money", now // limit.period), share))
        return found

    def allowed(self, events: Sequence[tuple[int, str | None]], now: int) -> list[int]:
        held, calls = Counter[Any](), [0] * len(events)
        for number in range(1, EXTRA_CALLS + 1):
            for row, (lane, tenant) in enumerate(events):
                accounts = self.accounts(lane, tenant, now)
                if calls[row] != number - 1:
                    continue
                if all(self.spent[name] + held[name] + BOUND <= most for name, most in accounts):
                    calls[row] = number
                    held.update({name: BOUND for name, _ in accounts})
        return calls

    def settle(self, lane: int, tenant: str | None, now: int, tokens: int) -> None:
        self.spent.update({name: tokens for name, _ in self.accounts(lane, tenant, now)})


tenants = st.lists(st.sampled_from(["a", "b", None]), max_size=6)
budgets = st.builds(
    BudgetPlan,
    by=st.just("tenant"),
    tokens=st.none() | st.builds(Limit, st.integers(500, 9_000), st.sampled_from([HOUR, 24 * HOUR])),
    money=st.none() | st.builds(Limit, st.integers(1_000, 20_000), st.just(24 * HOUR)),
    price=st.just(PRICE),
)


@settings(max_examples=60, deadline=None)
@given(
    budgets,
    st.lists(st.tuples(st.tuples(tenants, tenants), st.integers(0, 30), st.randoms(use_true_random=False)), max_size=6),
)
def test_lanes_spend_what_a_plain_loop_spends(plan: Plan, budget: BudgetPlan, batches: Any) -> None:
    lanes, plain, hours = Lanes(with_budget(plan, budget)), PlainAccounts(budget, 2), 0
    for batch, passed, chance in batches:
        hours += passed
        now = NOW + timedelta(hours=hours)
        moment = round(now.timestamp() * 1_000_000)
        events = [(lane, tenant) for lane, own in enumerate(batch) for tenant in own]
        if not budget.is_limited:
            continue
        allowed = plain.allowed(events, moment)
        took = [chance.randrange(calls * BOUND + 1) for calls in allowed if calls]
        found = lanes.decide(batch, lambda ask, took=took: took, now)
        again = lanes.asked
        assert [one for own in found for one in reasons(own)] == [None if calls else "budget" for calls in allowed]
        if events:
            assert again[0].columns[MOST_CALLS].tolist() == [calls for calls in allowed if calls]
        for (lane, tenant), tokens in zip(
            [one for one, calls in zip(events, allowed, strict=True) if calls], took, strict=True
        ):
            plain.settle(lane, tenant, moment, tokens)


def test_events_over_the_budget_are_not_asked_about_and_the_next_period_begins_anew(plan: Plan) -> None:
    lanes = Lanes(plan)
    [one, _] = lanes.decide([["a", "a", "b", "a", "a"], []], all_of(BOUND))
    assert reasons(one) == [None, None, None, None, "budget"]
    assert one[0]["features"]["llm_tokens"] == BOUND
    assert one[0]["features"]["llm_money"] == BOUND / 1e6
    assert (one[4]["tier"], one[4]["features"]["llm_tokens"]) == ("abstain", None)
    [one, _] = lanes.decide([["a", "b"], []], all_of(BOUND))
    assert reasons(one) == ["budget", None]
    assert lanes.decide([["a"], []], all_of(BOUND))[0][0]["tier"] == "abstain"
    assert all(TABLE not in changes for changes in lanes.changes)  # nothing was spent, and nothing is written
    [one, _] = lanes.decide([["a"], []], all_of(BOUND), NOW + timedelta(hours=1))
    assert reasons(one) == [None]


def test_a_period_of_another_length_begins_anew_in_lanes(plan: Plan) -> None:
    """What was spent in a day would else be spent in each of its hours."""
    day, hour = (with_budget(plan, BudgetPlan("tenant", Limit(BOUND, n * HOUR))) for n in (24, 1))
    lanes = Lanes(day)
    assert reasons(lanes.decide([["a", "a"], []], all_of(BOUND))[0]) == [None, "budget"]
    lanes.processor = DecideProcessor.of(hour, None, lanes=2)
    assert reasons(lanes.decide([["a", "a"], []], all_of(BOUND))[0]) == [None, "budget"]


def test_a_batch_that_is_run_again_reserves_anew(plan: Plan) -> None:
    lanes = Lanes(plan)
    first = lanes.decide([["a"] * 4, []], all_of(BOUND), commits=False)
    assert lanes.decide([["a"] * 4, []], all_of(BOUND)) == first
    assert reasons(first[0]) == [None] * 3 + ["budget"]


def test_what_nobody_tells_the_price_of_has_cost_what_it_can(plan: Plan) -> None:
    lanes = Lanes(plan)
    lanes.decide([["a"] * 2, []], lambda ask: Answer.nothing(len(ask.ids), "timeout"))
    assert [ask.columns[MOST_CALLS].tolist() for ask in lanes.asked] == [[2, 1]]  # all of them may have been made
    assert reasons(lanes.decide([["a"], []], all_of(0))[0]) == ["budget"]
    lanes = Lanes(plan)
    lanes.decide([["a"], []], lambda ask: Answer.nothing(len(ask.ids), "busy"))
    assert reasons(lanes.decide([["a"] * 3, []], all_of(0))[0]) == [None, None, None]


def test_more_than_was_reserved_counts_too(plan: Plan) -> None:
    lanes = Lanes(plan)
    lanes.decide(
        [["a"], []],
        lambda ask: Answer([None], ["timeout"], columns={TOKENS: np.array([2_500.0]), MONEY: np.array([np.nan])}),
    )
    assert reasons(lanes.decide([["a"], []], all_of(0))[0]) == ["budget"]


def test_each_lane_has_its_part_of_the_money(plan: Plan) -> None:
    lanes = Lanes(with_budget(plan, BudgetPlan(money=Limit(5 * BOUND, 24 * HOUR), price=PRICE)), lanes=2)
    one, two = lanes.decide([["a"] * 4, ["b"] * 4], all_of(BOUND))
    assert reasons(one) == reasons(two) == [None, None, "budget", "budget"]


def test_stand_ins_and_shadows_have_budgets_of_their_own_that_count(tmp_path: Path) -> None:
    models = "".join(
        LLM.format(id=name, budget=BUDGET.replace("3k", limit), more="")
        for name, limit in (("one", "1k"), ("two", "2k"))
    )
    beside = "shadow:" + LLM.format(id="beside", budget=BUDGET.replace("3k", "1k"), more="")
    lanes = Lanes(plan_of(tmp_path, models=models, rest=beside))
    [found, _] = lanes.decide([["a"] * 4, []], all_of(BOUND))
    assert [one["tier"] for one in found] == ["automatic", "stand-in:two", "stand-in:two", "abstain"]
    assert reasons(found) == [None, None, None, "budget"]
    assert [one["shadows"]["beside"]["reason"] for one in found] == [None, "budget", "budget", "budget"]
    assert [(ask.model, len(ask.ids)) for ask in lanes.asked] == [("one", 1), ("beside", 1), ("two", 2)]
    again = lanes.decide([["a"], []], all_of(BOUND))[0]
    assert [(one["tier"], one["shadows"]["beside"]["reason"]) for one in again] == [("abstain", "budget")]
    assert sum(len(ask.ids) for ask in lanes.asked) == 0


def test_old_periods_are_swept_in_bounded_pieces(plan: Plan) -> None:
    lanes = Lanes(plan, lanes=1)
    lanes.decide([[f"t{number}" for number in range(SWEPT + 500)]], all_of(1))
    assert lanes.tables[0].count(TABLE) == SWEPT + 501
    counts = []
    for _ in range(3):
        lanes.decide([["a"]], all_of(1), NOW + timedelta(hours=1))
        counts.append(lanes.tables[0].count(TABLE))
    assert counts == [502, 2, 2]


def test_keys_of_pipelines_with_sensitive_fields_leave_hashed(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text().replace("key: tenant}", "key: tenant, sensitive: [tenant]}"))
    pipeline = open_pipeline(file, {SECRET: "0123456789abcdef"})
    lanes = Lanes(pipeline.plan, masker=pipeline.processor.masker)
    lanes.decide([["Jane Doe", None], []], all_of(1))
    key, nobody = lanes.asked[0].columns[BUDGET_KEY]
    assert key.startswith("hash:")
    assert nobody is None


def test_a_state_of_another_version_is_met_with_an_error(plan: Plan) -> None:
    lanes = Lanes(plan)
    lanes.decide([["a"], []], all_of(1))
    [key] = [key for key, _ in lanes.tables[0].items(TABLE) if key]
    lanes.tables[0].apply({TABLE: {key: b"\x93\x02\x00\x00"}})
    with pytest.raises(ValueError, match="of version 2 is met"):
        lanes.decide([["a"], []], all_of(1))


def test_tests_of_a_file_spend_nothing(tmp_path: Path) -> None:
    history = "\n".join(["      - {tenant: a, body: hello}"] * 5)
    rest = (
        "tests:\n  - name: x\n    event: {tenant: a, body: hello}\n    history:\n"
        f"{history}\n    answer: {{score: 0.5}}\n    expect: {{scored_by: llm}}\n"
    )
    [result] = run_tests(open_pipeline(write(tmp_path, rest=rest), masked=False))
    assert result.passed, result.differences


PROBLEMS: dict[str, tuple[str, str, str, str]] = {
    "a key of no lane": (
        ", tokens_per_key: {by: body, limit: 3k}",
        "",
        "can be counted only where all of its events come in one partition",
        "repartition_by: body",
    ),
    "no such key": (", tokens_per_key: {by: tenent, limit: 3k}", "", "`tenent` is no field and no feature", "tenant"),
    "not even one request": (
        ", tokens_per_key: {by: tenant, limit: 500}",
        "",
        "a key has 500 tokens, and a request can take 1,000",
        "raise it",
    ),
    "no price": (MONEY_TOO, "", "nobody knows what the model 'some-model' costs", "add `price:"),
    "another currency than that of known prices": (
        ", money_per_day: 5 EUR",
        "",
        "prices that are known are in USD",
        "add `price:",
    ),
    "two currencies": (", money_per_day: 5 EUR", PRICED, "this is in EUR", "one currency"),
    "money for no request": (", money_per_day: 0.5 USD", PRICED, "a request can cost 1", "raise it"),
    "money without a currency": (", money_per_day: 20", PRICED, "write an amount and its currency", ""),
    "tokens that are none": (BUDGET.replace("3k", "3 k"), "", "write a number of tokens", ""),
    "a rate that is none": ("", "\n      limits: {requests: 50}", "write a number of requests in a time", ""),
    "a rate of no key": ("", "\n      limits: {per: {tenent: 5/s}}", "`tenent` is no field and no feature", "tenant"),
    "rates of two keys": ("", "\n      limits: {per: {tenant: 5/s, body: 5/s}}", "by one field", "keep one"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_cannot_be_kept_is_told_at_load(tmp_path: Path, name: str) -> None:
    budget, more, message, remedy = PROBLEMS[name]
    with pytest.raises(PipelineError) as raised:
        plan_of(tmp_path, budget, more)
    [problem] = raised.value.problems
    assert message in problem.message + problem.remedy
    assert remedy in problem.remedy


def test_with_a_redis_any_field_may_be_the_key(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ", tokens_per_key: {by: body, limit: 3k}", "\n      redis: ${REDIS_URL}")
    assert plan.model is not None and plan.model.llm is not None
    assert not plan.model.llm.budget.in_lanes
    lanes = Lanes(plan)
    assert reasons(lanes.decide([["a"] * 9, []], all_of(BOUND))[0]) == [None] * 9
    assert MOST_CALLS not in lanes.asked[0].columns
    assert lanes.tables[0].count(TABLE) == 0


def test_without_genai_prices_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "genai_prices", None)
    with pytest.raises(EnvironmentFault) as raised:
        plan_of(tmp_path, MONEY_TOO)
    assert "streamproc[llm]" in str(raised.value.hint)
    assert plan_of(tmp_path, MONEY_TOO, PRICED).model is not None


def test_budgets_change_neither_the_plan_nor_the_model(tmp_path: Path) -> None:
    one, two = plan_of(tmp_path, BUDGET), plan_of(tmp_path, MONEY_TOO, PRICED + "\n      limits: {requests: 5/s}")
    assert (one.hash, one.model_version) == (two.hash, two.model_version)
