"""Decide: ways to make a discrete choice and still learn through it."""
