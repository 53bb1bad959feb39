"""Rankings to metrics, verdict and report."""
