"""EVA (arXiv 2410.07170): a LoRA that starts from the data it will train on."""
