"""The two jobs: what events look like, and what must come out. Written by hand, in plain Python.

These functions are what the Python contestants run (streamproc and Kafka Streams have the same job in their own
words), and what every contestant's outputs are compared with. They import neither streamproc nor Kafka.
"""

from __future__ import annotations

from benchmarks.jobs.full.job import FULL
from benchmarks.jobs.job import Decision, Job, Topics
from benchmarks.jobs.small.job import SMALL

JOBS: dict[str, Job] = {job.name: job for job in (SMALL, FULL)}

__all__ = ["JOBS", "Decision", "Job", "Topics"]
