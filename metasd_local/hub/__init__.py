"""The Hugging Face cache on this machine, shared with `hf` and llama.cpp, and the Hub behind it."""
