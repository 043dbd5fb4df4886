"""What follows events and decisions: features, learner, archive."""
