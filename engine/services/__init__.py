"""What callers ask for: load, judge, commit, and again where somebody came first."""
