"""What runs: settings, processes, the embedded store, and the local cluster."""
