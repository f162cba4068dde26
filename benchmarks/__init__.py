"""Measurements of nucleate: ``python -m benchmarks [NAME] [--quick]``."""

import os

# Before numpy and pyFAI are loaded: every figure is of one thread.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
