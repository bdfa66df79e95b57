"""Private services for all rooms: files, cache, memory, progress, figures, configuration files."""
