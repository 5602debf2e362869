"""An installation's own app: one step more in the close, on a queue of its own. docs/extending.md shows it."""
