"""Public data sets, fetched whole or not at all."""
