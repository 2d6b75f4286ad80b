"""Findings on models that draw: whether what they draw is what was asked for, and how near it is to real images."""
