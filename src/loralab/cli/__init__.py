"""The command line: `loralab VERB …`. One verb per file in `verbs`; importing any of it loads no torch."""
