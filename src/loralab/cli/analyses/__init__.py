"""The analyses, a file each: the verbs behind `loralab analyse`, imported only when they are asked for."""
