"""Pools of one target and its drafters: the catalogue, and what of it is on this machine."""
