"""Pictures: where they come from (procedural, folder, cache), in which order, and how they are cropped and shrunk."""
