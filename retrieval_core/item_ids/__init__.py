"""Item ids: the one spelling that each is stored and looked up in, and the nearest ids to one that does not exist."""
