"""Fuzzing of every reader: what they read (``readers``), how valid files are broken (``mutations``), bombs (``bombs``)."""
