"""How good the drift monitors are: false alarms against their budget, delays, real data, run lengths, cost."""
