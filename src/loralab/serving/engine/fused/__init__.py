"""One step of decoding through the blocks of known decoders, in fewer and quicker operations than their own modules."""
