"""Makers of a lesion mask: by asymmetry, by what cannot be registered, by labels, by networks."""
