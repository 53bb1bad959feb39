"""The HTTP API of the search service: requests, answers, and what stands between them and a release."""
