"""What a person sees meanwhile, and where else the metrics go."""
