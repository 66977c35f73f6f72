"""Evaluation of tokenizers: protocols, metrics, baselines and reports."""
