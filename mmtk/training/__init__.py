"""Training of learned registration: data made on the fly, MONAI's engines, runs that go on after a stop."""
