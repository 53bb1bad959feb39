"""Everything the report says as data, and the page that is drawn from it."""
