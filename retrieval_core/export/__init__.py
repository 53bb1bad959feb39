"""Copy a published release into a database that the shop searches in."""
