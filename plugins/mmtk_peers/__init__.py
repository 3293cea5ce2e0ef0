"""Other programs as methods of mmtk (ANTs, greedy, demons), LCC-demons of our own, and the identity: for comparison."""
