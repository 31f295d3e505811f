"""The paper in torch: low-rank updates, how they are put on a model, switched, mixed and merged.

Knows nothing of files, tokenizers, transformers or HTTP.
"""
