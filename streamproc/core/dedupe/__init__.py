"""Which events were seen before: what a lane remembers of the ids of its events."""
