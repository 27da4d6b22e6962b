"""Published checkpoints made into stages. Nothing in them is executed."""
