"""Maths of one number or one sample, inlined into the loops of every kernel set."""
