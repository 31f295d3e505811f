"""Many runs: the same one over several seeds."""
