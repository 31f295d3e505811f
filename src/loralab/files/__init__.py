"""Files of any program: written whole, read safely. Nothing here knows of adapters."""
