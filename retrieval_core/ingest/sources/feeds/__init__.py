"""Product feeds and exports as shops and their platforms write them, which become one row per picture."""
