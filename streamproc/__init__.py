"""streamproc: Kafka events to decisions, exactly once."""

__version__ = "0.1.0"
