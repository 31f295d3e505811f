"""Token ids in, token ids out: many requests at once, each with its own adapter. It knows no HTTP and no text."""
