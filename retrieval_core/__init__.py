"""What each stage means: pure functions that know neither Prefect nor a user interface."""
