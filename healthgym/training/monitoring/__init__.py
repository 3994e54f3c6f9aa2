"""Metrics of a run: recorded, drawn, and watched for divergence."""
