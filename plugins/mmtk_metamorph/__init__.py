"""Metamorphosis that is learned: MetaMorph-R, a residual network, and MetaMorph-G, which predicts a momentum."""
