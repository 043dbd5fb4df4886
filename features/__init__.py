"""What we know of a customer: events, identities, features and facts."""
