"""Class activation maps: one pure function per method, over the depths of one captured pass."""
