"""PEFT's adapter folders, read strictly and written so that PEFT loads them unchanged."""
