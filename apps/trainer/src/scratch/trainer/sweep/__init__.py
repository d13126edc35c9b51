"""A training for each combination of settings."""
