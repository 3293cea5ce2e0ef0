"""Deformable registration with an untrained network as its prior (Laves, Ihler, Ortmaier 2019)."""
