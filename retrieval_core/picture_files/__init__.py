"""Picture files as they come: their formats, the bounds checked before decoding, and repairs of harmless damage."""
