"""Rankings to metrics, verdict and report."""

VERSION = 1  # raise when the same input gives another output
