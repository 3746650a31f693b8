"""Torture: a pipeline under load, faults drawn from a seed, and afterwards everything is counted.

``python -m tests.torture --seconds 120 --seed 7`` starts a Kafka and workers of its own.
"""
