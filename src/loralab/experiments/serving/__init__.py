"""How fast the serving engine answers, beside its own base and beside others."""
