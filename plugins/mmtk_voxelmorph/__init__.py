"""VoxelMorph: a U-Net predicts a stationary velocity; also with its cost masked (VM-CFM)."""
