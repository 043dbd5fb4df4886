"""The outside world behind the engine's ports: the store, its server and the journal."""
