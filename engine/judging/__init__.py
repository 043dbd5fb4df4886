"""Judging, pure: every rule, every choice, every record of it; no clock, no store, no network."""
