"""Trained positions around the prompt: PrefixEmbedding and PrefixLayer (paper §5.1)."""
