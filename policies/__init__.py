"""What marketing allows: the policy set, its conditions and its calendar."""
