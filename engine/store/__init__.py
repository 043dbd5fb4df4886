"""The only room that speaks to Valkey: connection, keys, scripts, and typed calls by what they are for."""
