"""The Lightning side: one module for each kind of stage, and what a training run needs around it."""
