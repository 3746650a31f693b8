"""The pipeline file: reading it, checking it, and making a plan of it."""

from streamproc.plan.load import load_plan

__all__ = ["load_plan"]
