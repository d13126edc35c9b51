"""What a trained model is for: to score text, and to write it."""
