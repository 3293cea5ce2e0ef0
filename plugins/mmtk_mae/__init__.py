"""The metamorphic auto-encoder: a template, and every image as a shape and an appearance of it."""
