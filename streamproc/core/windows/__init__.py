"""Features with memory: what happened to the same key before, kept as counts of buckets in the lane's state."""
