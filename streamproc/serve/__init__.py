"""The door for HTTP: events in, decisions out, with nothing decided here.

An event that comes in becomes a record of the events topic, lanes decide it like all others, and its answer is read
from the decisions topic. The door keeps nothing that another instance could miss.
"""
