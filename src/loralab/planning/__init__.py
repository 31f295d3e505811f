"""What a training will need before it starts: parameters, bytes on disk and memory, without loading a weight."""
