"""Whose it is: aliases, merges, unlinking and erasing."""
