"""The directory of a run: what is in it, how it is written, and how it is read without torch."""
