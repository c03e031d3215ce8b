"""How good a solver is: scores on files, predictions to recompute them from, calibration of expected errors."""
