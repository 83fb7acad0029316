"""`metasd bench`: what every drafter and policy gains, measured so that the figures can be trusted.

A reader of the same events as the command line; knows no models, only a way to decode a prompt.
"""
