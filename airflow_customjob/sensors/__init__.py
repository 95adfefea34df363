"""Sensors that wait for custom jobs."""
