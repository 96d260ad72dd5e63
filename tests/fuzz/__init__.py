"""Fuzzing of every reader: what they read, how valid files are broken, and files made to exhaust memory or time."""
