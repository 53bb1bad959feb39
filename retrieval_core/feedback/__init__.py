"""What shoppers chose: the log of searches and events, and the judgements that it gives."""
