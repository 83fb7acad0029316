"""The terminal chat: reads events and snapshots, never models.

`ChatApp` is given what opens a pool; one thread of its own holds the models, and everything that
is shown comes from the events it reports.
"""
