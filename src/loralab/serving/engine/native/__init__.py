"""What the engine computes in C++ of its own, where a compiler is found."""
