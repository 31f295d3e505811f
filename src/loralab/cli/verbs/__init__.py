"""One file per verb: its configuration (every flag), its example, its work and how its answer is shown."""
