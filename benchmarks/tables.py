"""What a table costs: ``python -m benchmarks.tables --rows 1000000``. Memory of a row, reading it, and look-ups."""

from __future__ import annotations

import argparse
import gc
import random
import time
from pathlib import Path

import orjson

from streamproc.core.contract import Contract
from streamproc.core.table import Row, RowReader
from streamproc.io.model_process import memory
from streamproc.sample import example

CHUNK = 2_000
BATCH = 4_000
FIELDS = ("years_at_bank", "earlier_loans")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    schema = example("car_loan") / "profile.schema.json"
    reader = RowReader(Contract(orjson.loads(Path(schema).read_bytes())), FIELDS)
    chance, held, reading = random.Random(1), dict[bytes, Row](), 0.0
    gc.collect()
    before = memory()
    for begin in range(0, rows, CHUNK):
        keys = [b"%d" % (10_000_000 + number) for number in range(begin, min(begin + CHUNK, rows))]
        values = [
            orjson.dumps({"years_at_bank": chance.random() * 40, "earlier_loans": chance.randrange(5)}) for _ in keys
        ]
        began = time.process_time()
        for key, row in reader.changes(keys, list(values)).rows.items():
            if row is not None:
                held[key] = row
        reading += time.process_time() - began
    del keys, values
    gc.collect()
    print(
        f"{len(held):,} rows: {(memory() - before) / rows:.0f} bytes a row, {reading / rows * 1e6:.2f} µs to read one"
    )
    asked = [b"%d" % (10_000_000 + chance.randrange(rows)) for _ in range(BATCH)]
    began = time.process_time()
    for _ in range(100):
        list(map(held.get, asked))
    print(f"a look-up of {BATCH:,} keys: {(time.process_time() - began) * 10:.2f} ms")


if __name__ == "__main__":
    main()
