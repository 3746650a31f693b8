"""Drift under one false-alarm budget: panes of counts, windows of panes, sequential tests, alarms.

A decide lane bins each watched column and counts (``panes``). The drift processor adds partial panes up, makes windows
of whole panes and judges them (``detector``). What is normal, and how far from it is an alarm, stands in the
``baseline``, which ``calibrate`` learns from a reference.
"""
