"""`metasd doctor`: whether this machine and these files can draft, and whether that pays."""
