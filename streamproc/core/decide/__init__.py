"""The decide processor, one stage a file."""

from streamproc.core.decide.processor import DecideProcessor

__all__ = ["DecideProcessor"]
