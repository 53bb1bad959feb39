"""Rankings to metrics, verdict and report."""

VERSION = 2  # raise when the same input gives another output
