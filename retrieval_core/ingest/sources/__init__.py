"""One file a layout that catalogues come in; `registry` finds them by name."""
