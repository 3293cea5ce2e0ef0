"""The parts that come with mmtk: similarities, regularizers, integrators. They enter as any plugin does."""
