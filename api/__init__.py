"""How the world asks: HTTP and the command line."""
