"""Measuring the engine: tokens per second across adapters."""
