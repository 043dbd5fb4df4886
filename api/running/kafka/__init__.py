"""A real Apache Kafka without containers, for development and tests: one node or three, as plain processes."""
