"""The commands: thin entry points that read a configuration and call the library. Heavy imports are in functions."""
