"""Data sets as tasks: one reader per file, examples, their encoding as token ids, and batches."""
