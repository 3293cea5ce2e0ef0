"""Set before torch is loaded: threads that wait for one another by spinning make small tensors tens of times slower."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
