"""Instruments for studying drafter selection away from real pools; nothing here answers users."""
