"""The embedded starter pool: weights, their card and licence, and the training that made them."""
