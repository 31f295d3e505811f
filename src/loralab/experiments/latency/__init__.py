"""What a forward pass costs with adapters live and merged (paper, Table 1 and Figure 5)."""
