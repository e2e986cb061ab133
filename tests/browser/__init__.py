"""Tests that open the course in a browser; skipped where there is none."""
