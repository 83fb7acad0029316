"""Token models: llama.cpp, and a scripted one for tests and demonstrations.

The only package that may import llama_cpp.
"""

import os

# llama.cpp reads it while it is being loaded; without it an abort starts a debugger.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
