"""Linear and deformable registration by one network: an affine matrix and the map's slopes along each axis."""
