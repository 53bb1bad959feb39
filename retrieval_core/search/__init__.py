"""Pictures, words and items to hits."""
