"""For every suite of the house: one thread each. Small tensors gain nothing from more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
