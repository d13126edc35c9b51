"""What a training takes, before it is begun."""
