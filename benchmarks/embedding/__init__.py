"""Speed of embedding, and of the pass that masks and embeds."""
