"""Text from a language model: token ids in, token ids out, through transformers."""
