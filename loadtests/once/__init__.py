"""Exactly once, through Kafka: what every customer's state is after faults, beside what the events alone make it."""
