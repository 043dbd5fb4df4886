"""One HTTP/1.1 connection: protocol, admission, limits."""
