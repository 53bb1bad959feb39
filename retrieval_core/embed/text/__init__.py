"""The text side of a backbone: its tokenizer, and the vectors of texts."""
