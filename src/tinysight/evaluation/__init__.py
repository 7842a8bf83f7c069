"""Evaluation of trained models: scores, metrics, ensembles."""
