"""Events on their way: the journal takes them in, workers fold them into customers, each once."""
