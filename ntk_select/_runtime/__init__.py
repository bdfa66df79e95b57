"""Private services of the package: files, cache, memory, progress, figures, configuration files, checks of arguments."""
