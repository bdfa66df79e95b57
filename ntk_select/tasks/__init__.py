"""Target tasks, their probe samples, and copies among images."""
