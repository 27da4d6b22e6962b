"""The Hydra configuration: a group is a role, a file one variant of it. A package, so that `pkg://conf` finds it."""
