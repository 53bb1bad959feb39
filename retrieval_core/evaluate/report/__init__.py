"""The report of a run: its facts as data, and the page that shows them."""
