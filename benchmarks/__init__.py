"""The benchmarks that the README quotes: each a ratio against a peer, measured in the same run on the same machine."""
