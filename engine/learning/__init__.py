"""Learning: what turns outcomes into scores. The learner process alone changes models; the API reads snapshots."""
