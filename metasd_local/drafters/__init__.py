"""Sources of draft tokens, and the check that a drafter fits its target."""
