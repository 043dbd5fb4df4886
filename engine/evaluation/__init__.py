"""Judging: what a policy would have earned on logged decisions, and what was earned over the control group."""
