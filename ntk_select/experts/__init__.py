"""Experts: pre-trained networks with their provenance, preprocessing and forward pass."""
