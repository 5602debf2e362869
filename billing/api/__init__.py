"""The same answers as JSON. Session sign-in, staff only, read-only."""
