"""From a request to its answer: plan, initial state, observation, flags, reference."""
