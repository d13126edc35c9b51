"""One page that shows and compares runs."""
