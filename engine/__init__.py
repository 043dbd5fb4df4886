"""What to do next: the pure decision core, and the adapters that give it facts."""
