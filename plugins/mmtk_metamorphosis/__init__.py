"""Metamorphosis and LDDMM, as a plugin."""
