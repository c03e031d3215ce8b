"""Training: what a run is, its data, the loop, the stages, and adaptations to a few trajectories."""
