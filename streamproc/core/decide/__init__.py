"""The decide processor, one stage a file."""

from streamproc.core.decide.processor import TABLES, DecideProcessor

__all__ = ["TABLES", "DecideProcessor"]
