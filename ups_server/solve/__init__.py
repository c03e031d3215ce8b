"""Solving: models and numerical methods behind one interface, rollouts, the engine, evaluation."""
