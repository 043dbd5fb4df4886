"""Torture: the promises of the governor against the real running product, under load and faults."""
