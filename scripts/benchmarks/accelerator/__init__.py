"""Checks of a device against the CPU of the same machine, one file per part; `check_accelerator.py` is the command."""
