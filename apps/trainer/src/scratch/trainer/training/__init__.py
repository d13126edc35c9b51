"""Training: the loop's surroundings, from the first batch to the last checkpoint."""
