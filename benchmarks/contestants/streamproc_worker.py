"""streamproc: the job's pipeline file, and ``streamproc run``."""

from __future__ import annotations

import shutil
import sys

from benchmarks.contestants.base import Setup


def command(setup: Setup, workers: int) -> list[str]:
    """The worker's command, on a copy of the pipeline with the names of this run."""
    job, folder = setup.job, setup.folder
    for file in ("pipeline.yaml", "event.schema.json", "model.onnx"):
        if (job.folder / file).exists():
            shutil.copy(job.folder / file, folder)
    pipeline = folder / "pipeline.yaml"
    text = pipeline.read_text(encoding="utf-8").replace(f"bench-{job.name}.events", setup.input)
    pipeline.write_text(text.replace(f"bench-{job.name}", setup.topics.prefix), encoding="utf-8")
    return [
        sys.executable,
        "-m",
        "streamproc",
        "run",
        str(pipeline),
        "--kafka",
        setup.address,
        "--workers",
        str(workers),
    ]
