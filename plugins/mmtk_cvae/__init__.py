"""The diffeomorphic CVAE: deformations as short codes, to register by, to draw, to carry over and to sort."""
