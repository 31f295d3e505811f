"""Examples as token ids or pixels, targets marked, in batches."""
