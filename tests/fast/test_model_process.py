"""Python models in processes of their own: whatever they do, the worker goes on, and in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamproc.core.processor import Answer, Score
from streamproc.errors import UserError
from streamproc.io.answers import Answers, Source
from streamproc.io.breaker import BreakerPolicy
from streamproc.io.child import Child
from streamproc.io.keeper import Recycling
from streamproc.io.model import Reading
from streamproc.io.python import PythonModel
from streamproc.pipeline import open_pipeline

SECONDS = 1.0
"""The models' time."""
SLACK = 1.0
"""For a machine that is busy."""
PATIENCE = 30.0

SOURCE = '''
import ctypes, os, sys, threading, time
import numpy as np

calls = 0
kept = []

def score(columns):
    """What x says: a score, or a fault."""
    global calls
    calls += 1
    x = columns["x"]
    if (x == -1).any():
        threading.Event().wait()
    if (x == -2).any():
        os._exit(3)
    if (x == -3).any():
        ctypes.string_at(0)
    if (x == -4).any():
        raise ValueError("quotes an event")
    if (x == -5).any():
        sys.exit(1)
    if (x == -6).any():
        ctypes.PyDLL(None).pause()  # holds the interpreter: no thread of this process runs any more
    if (x == -7).any():
        kept.append(bytearray(64 << 20))
    return x / 10

def sees(columns):
    names = [name for name in os.environ if "TOKEN" in name or name.startswith("STREAMPROC_")]
    return {"score": columns["x"], "version": " ".join(sorted(names))}

def noisy(columns):
    print("noise " * 1000)
    sys.stdout.flush()
    os.write(1, b"\\x00\\x00\\x00\\x01" * 100)
    print("more", file=sys.stderr)
    return columns["x"] / 10

def pid(columns):
    return np.full(len(columns["x"]), float(os.getpid()))

def count(columns):
    global calls
    calls += 1
    return np.full(len(columns["x"]), float(calls))

def classes(columns):
    x = columns["x"]
    return {"score": np.stack([x, 1 - x], axis=1), "confidence": x * 2, "version": "2026-11"}

def odd(columns):
    return [0.5, None, "0.5", float("nan"), float("inf"), True, 2]

def fewer(columns):
    return columns["x"][:-1]

def texts(columns):
    assert columns["name"].dtype == object, columns["name"].dtype
    assert columns["when"].dtype == "M8[us]", columns["when"].dtype
    return [len(name) if name is not None else None for name in columns["name"].tolist()]
'''


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Callable[..., PythonModel]]:
    (tmp_path / "faults.py").write_text(SOURCE, encoding="utf-8")
    made = list[PythonModel]()

    def make(function: str = "score", **more: Any) -> PythonModel:
        made.append(PythonModel(f"faults:{function}", tmp_path, timedelta(seconds=SECONDS), **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ask(*x: float) -> Score:
    return Score("m", {"x": np.array(x, np.float64)}, [str(row) for row in range(len(x))])


def answers_of(model: PythonModel) -> Answers:
    return Answers({"m": Source(model, timedelta(seconds=SECONDS), BreakerPolicy(calls=1_000))})


def soon(answers: Answers, asked: Score) -> Answer:
    """The first answer that is not that the process is starting."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = answers.now(asked)
        if answer.reasons[0] != "model_unavailable":
            return answer
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.mark.parametrize(
    ("fault", "reason"), [(-1, "timeout"), (-2, "model_unavailable"), (-3, "model_unavailable"), (-6, "timeout")]
)
def test_a_hang_or_a_crash_ends_the_process_and_another_one_goes_on(
    model: Callable[..., PythonModel], fault: float, reason: str
) -> None:
    answers = answers_of(model())
    began = time.monotonic()
    assert list(answers.now(ask(1, fault)).reasons) == [reason] * 2
    assert time.monotonic() - began < SECONDS + SLACK
    began = time.monotonic()
    answers.now(ask(1))  # whether or not there is a process already, nobody waits for it
    assert time.monotonic() - began < SECONDS
    assert list(soon(answers, ask(1, 2)).values) == [0.1, 0.2]


@pytest.mark.parametrize("fault", [-4, -5])
def test_a_row_that_it_raises_for_is_found(
    model: Callable[..., PythonModel], fault: float, caplog: pytest.LogCaptureFixture
) -> None:
    answer = answers_of(model()).now(ask(1, 2, fault, 4, 5))
    assert list(answer.reasons) == [None, None, "model_error", None, None]
    assert "faults.py" in caplog.text
    assert "quotes" not in caplog.text  # an error's text may show an event


def test_it_sees_no_secret_of_the_worker_or_of_other_models(
    model: Callable[..., PythonModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STREAMPROC_KAFKA_PASSWORD", "STREAMPROC_SENSITIVE_KEY", "SCORES_TOKEN", "NEXT_TOKEN", "OWN_TOKEN"):
        monkeypatch.setenv(name, "secret")
    model().close()  # the source is there
    schema = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    address = "http://127.0.0.1:1/v2/models/m/infer"
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        f"""
pipeline: p
events: {{topic: t, schema: schema.json}}
model:
  - {{python: "faults:sees", inputs: [x]}}
  - {{http: "{address}", inputs: [x], headers: {{A: "Bearer ${{SCORES_TOKEN}}"}}}}
shadow: [{{id: next, http: "{address}", inputs: [x], headers: {{A: "${{NEXT_TOKEN}}"}}}}]
rules: [{{id: all, decide: approve}}]
actions: {{approve: null}}
""",
        encoding="utf-8",
    )
    for masked in (True, False):  # without masking no variable is needed, and they are no less secret
        answers = open_pipeline(file, masked=masked).answers
        try:
            answer = answers.now(Score("python", {"x": np.ones(1)}, ["1"]))
        finally:
            answers.close()
        assert answer.version.partition("@")[2] == "OWN_TOKEN"


def test_what_it_prints_is_not_what_it_answers(model: Callable[..., PythonModel]) -> None:
    for _ in range(3):
        assert list(answers_of(model("noisy")).now(ask(1, 2)).values) == [0.1, 0.2]


def test_a_late_answer_is_never_that_of_another_batch(model: Callable[..., PythonModel]) -> None:
    answers = answers_of(model())
    assert answers.now(ask(-1)).reasons[0] == "timeout"
    for number in range(20):
        assert soon(answers, ask(number)).values[0] == number / 10


def test_after_so_many_calls_another_process_takes_over_and_nothing_waits(model: Callable[..., PythonModel]) -> None:
    answers, deadline = answers_of(model("pid", recycling=Recycling(calls=3))), time.monotonic() + PATIENCE
    pids = set[float]()
    while len(pids) < 3:
        answer = answers.now(ask(1))
        assert list(answer.reasons) == [None]
        pids.add(answer.values[0])
        assert time.monotonic() < deadline


def test_a_leak_ends_with_the_process(model: Callable[..., PythonModel]) -> None:
    own = model(recycling=Recycling(memory=256 << 20))
    answers, deadline = answers_of(own), time.monotonic() + PATIENCE
    before = own.pid
    while own.pid == before:
        assert list(answers.now(ask(-7)).reasons) == [None]
        assert time.monotonic() < deadline


def test_classes_confidence_and_version(model: Callable[..., PythonModel]) -> None:
    answer = answers_of(own := model("classes", reading=Reading(("good", "bad"), "good"))).now(ask(0.25, 0.5))
    assert list(answer.values) == [0.25, 0.5]
    assert {name: column.tolist() for name, column in answer.columns.items()} == {
        "score_good": [0.25, 0.5],
        "score_bad": [0.75, 0.5],
        "model_confidence": [0.5, 1.0],
    }
    assert answer.version == f"{own.version}@2026-11"
    assert list(answers_of(model("classes")).now(ask(0.25)).values) == [0.75]  # the last one
    three = answers_of(model("classes", reading=Reading(("a", "b", "c"))))
    assert list(three.now(ask(0.25)).reasons) == ["model_error"]


def test_what_is_no_number_is_no_score_of_its_row(model: Callable[..., PythonModel]) -> None:
    answer = answers_of(model("odd")).now(ask(*range(7)))
    assert list(answer.reasons) == [None, *["not_finite"] * 5, None]
    assert list(answers_of(model("fewer")).now(ask(1, 2)).reasons) == ["wrong_length"] * 2


def test_texts_and_times_arrive_as_they_are(model: Callable[..., PythonModel]) -> None:
    columns = {
        "name": np.array(["a", None, "é\x00'"], object),
        "when": np.array(["2026-01-01", "NaT", "1970-01-01"], "M8[us]"),
    }
    answer = answers_of(model("texts")).now(Score("m", columns, ["1", "2", "3"]))
    assert list(answer.reasons) == [None, "not_finite", None]
    assert [answer.values[0], answer.values[2]] == [1.0, 3.0]


FORGED = """
import json, socket, struct, sys, threading

def score(columns):
    own = socket.socket(fileno=int(sys.argv[1]))
    body = {body!r}
    said = {said}
    head = json.dumps({{"version": "1", "memory": 1, **said}}).encode()
    own.sendall(struct.pack("!II", len(head), len(body)) + head + body)
    threading.Event().wait()
"""


@pytest.mark.parametrize(
    ("said", "body", "reason"),
    [
        ('{"columns": [{"name": "scores", "type": "json", "size": 5}]}', b'["x"]', "not_finite"),
        ('{"columns": [{"name": "scores", "type": "json", "size": 5}]}', b"[[1,2", "model_error"),
        ('{"columns": [{"name": "scores", "type": "<M8[s]", "shape": [1], "size": 8}]}', b"\0" * 8, "not_finite"),
        ('{"columns": [{"name": "scores", "type": "<m8[ns]", "shape": [1], "size": 8}]}', b"\0" * 8, "not_finite"),
        ('{"columns": [{"name": "scores", "type": "<f8", "shape": [2], "size": 8}]}', b"\0" * 8, "model_error"),
        ('{"columns": []}', b"", "model_error"),
        ("{}", b"", "model_error"),
    ],
    ids=range(7),
)
def test_a_frame_that_the_model_made_itself_is_a_reason_too(
    tmp_path: Path, said: str, body: bytes, reason: str
) -> None:
    (tmp_path / "forging.py").write_text(FORGED.format(said=said, body=body), encoding="utf-8")
    model = PythonModel("forging:score", tmp_path, timedelta(seconds=SECONDS))
    try:
        answers = Answers({"m": Source(model, timedelta(seconds=SECONDS))})
        assert list(answers.now(ask(1)).reasons) == [reason]
    finally:
        model.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os\nos._exit(7)", "exit code 7"),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
        ("raise KeyError('x')", "KeyError"),
        ("import sys\nsys.exit('no')", "SystemExit: no"),
        ("import no_such_module_here", "cannot import"),
        ("x = 1", "no function"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "broken_module.py").write_text(source, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        PythonModel("broken_module:score", tmp_path)


def test_a_module_that_changed_is_not_taken_for_the_one_that_decisions_name(
    model: Callable[..., PythonModel], tmp_path: Path
) -> None:
    answers = answers_of(model())
    with (tmp_path / "faults.py").open("a", encoding="utf-8") as file:
        file.write("\n# other\n")
    assert answers.now(ask(-2)).reasons[0] == "model_unavailable"
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert answers.now(ask(1)).reasons[0] == "model_unavailable"


HOLDER = """
import sys, os
from pathlib import Path
from datetime import timedelta
import numpy as np
from streamproc.io.python import PythonModel

model = PythonModel("faults:score", Path(sys.argv[1]), timedelta(seconds=60))
print(model.pid, flush=True)
model.score({"x": np.array([float(sys.argv[2])])}, 1)
"""


@pytest.mark.parametrize("fault", [-1, -6])
def test_it_ends_with_its_worker_however_that_ends(
    model: Callable[..., PythonModel], tmp_path: Path, fault: float
) -> None:
    """Even where it hangs in native code, and holds the interpreter."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path), str(fault)]
    model().close()  # the source is there
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        os.kill(pid, 0)
        holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while _alive(pid):
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_process_that_is_being_made_when_it_closes_ends_too(
    model: Callable[..., PythonModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model()
    making, closed, made = threading.Event(), threading.Event(), list[Child]()

    def slow(*told: Any) -> Child:
        making.set()
        assert closed.wait(PATIENCE)
        made.append(Child(*told))
        return made[-1]

    monkeypatch.setattr("streamproc.io.keeper.Child", slow)
    call = threading.Thread(target=answers_of(own).now, args=(ask(-2),))
    call.start()
    try:
        assert making.wait(PATIENCE)
        own.close()
    finally:
        closed.set()
        call.join(PATIENCE)
    assert own.pid is None
    [child] = made
    try:
        assert not _alive(child.pid)
    finally:
        child.end()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
