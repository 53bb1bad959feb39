"""Find items by picture, text or item in a published release."""
