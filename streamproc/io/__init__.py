"""Answers asks: models and look-ups, their deadlines and bounds. The core only sees the answers."""
