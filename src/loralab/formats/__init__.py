"""Adapters and models at rest: PEFT folders, loralib checkpoints, merged models, fingerprints; files written whole."""
