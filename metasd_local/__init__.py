"""Lossless local decoding on llama.cpp with a drafter chosen online, round by round.

Headless: nothing here imports textual, and only `cli.py` prints.
"""

__version__ = "0.1.0"
