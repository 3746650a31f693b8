"""How fast streamproc is, beside others that do the same work: ``uv run --group bench python -m benchmarks``."""
