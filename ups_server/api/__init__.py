"""The HTTP service. Imports no torch: models live in the engine process."""
