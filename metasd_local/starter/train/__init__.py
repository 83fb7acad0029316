"""Training of a starter pool: tokeniser, target, drafters, GGUF files, acceptance matrix."""
