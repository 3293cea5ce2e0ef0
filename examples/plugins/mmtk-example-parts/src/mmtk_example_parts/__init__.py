"""Parts for mmtk: MIND-SSC, a Runge-Kutta scheme, a price of changed volume, and ConvexAdam."""
