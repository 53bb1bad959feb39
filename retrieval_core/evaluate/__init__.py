"""Rankings to metrics, verdict and report."""

VERSION = 4  # raise when the same input gives another output
