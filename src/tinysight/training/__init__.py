"""Trainer: one loop for every model and every machine."""
