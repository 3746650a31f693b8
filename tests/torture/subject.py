"""What is tortured: the car-loan pipeline with a model that can fail, drift, and a counter of its decisions."""

from __future__ import annotations

from examples.counter.counter import TABLE, Counter
from streamproc import Agent
from streamproc.agents import prepare_topics
from streamproc.baselines import baseline_path, learn
from streamproc.core.drift.baseline import Baseline
from streamproc.kafka.connection import Connection
from streamproc.pipeline import Pipeline, open_pipeline
from streamproc.topics import check_topics, pipeline_topics
from streamproc.worker import agents as pipeline_agents
from tests.kafka import car_loan
from tests.kafka.car_loan import Example
from tests.torture.model import score
from tests.torture.windows import FEATURES

MODEL = f"python: {score.__module__}:{score.__name__}"
DRIFT = "drift: {reference: reference.parquet, false_alarms: 1 per 100000 events, segments: [salary_range]}"
REVIEW = (
    "review: {ttl: 10s, on_expiry: escalate, priority: car_value, lease: 3s, audit: 2%, second_opinion: 20%,"
    " capacity: 400 per 10s, corrections: true}"
)
CHANGES = (
    # the record's own key: that comes again and again, an id only where an event is sent twice
    ("  key: id\n", "  id: id\n  dedupe: 24h\n"),
    ("  onnx: model.onnx", f"  {MODEL}"),
    ("  timeout: 5s", "  timeout: 500ms"),
    ("\nfeatures:\n", FEATURES),
    ("\nrules:\n", f"\n{DRIFT}\n\nrules:\n"),
    ("\nactions:\n", f"\n{REVIEW}\n\nactions:\n  escalate: null\n"),
)
REFERENCE = 5_000


def make(connection: Connection, partitions: int, replication: int) -> Example:
    """A copy of the example with an events topic of its own. Takes an event loop of its own."""
    copies = ("\nactions:\n", f"\ntopics: {{replication: {replication}}}\n\nactions:\n")
    example = car_loan.make(connection, partitions, [*CHANGES, copies])
    car_loan.loans().head(REFERENCE).write_parquet(example.file.parent / "reference.parquet")
    baseline_path(example.file).write_bytes(learn(open_pipeline(example.file)).dumps())
    return example


def totals(example: Example) -> str:
    """The topic of the counter's results."""
    return example.topic("totals")


def agents(pipeline: Pipeline, lanes: int, baseline: Baseline | None = None) -> list[Agent]:
    """The pipeline's own agents, and one that keeps a count for each key, as state of its lanes."""
    decisions, counts = pipeline.plan.topics.decisions, f"{pipeline.plan.pipeline}.totals"
    counter = Agent("counter", (decisions,), Counter(decisions, counts), tables=(TABLE,), writes=(counts,))
    return [*pipeline_agents(pipeline, lanes, baseline), counter]


async def make_topics(example: Example, partitions: int) -> Pipeline:
    """Make every topic that is written to, as ``streamproc run`` and ``run_agents`` would."""
    pipeline = open_pipeline(example.file)
    rows = pipeline_topics(pipeline.loaded, pipeline_agents(pipeline, partitions), partitions)
    await check_topics(example.connection, rows, create=True)
    await prepare_topics(
        example.name, agents(pipeline, partitions), example.connection, pipeline.plan.topics.dead_letters
    )
    return pipeline
