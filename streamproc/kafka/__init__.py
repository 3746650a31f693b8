"""Kafka: the transport, lanes and transactions, what workers follow, topics, and a broker for development."""
