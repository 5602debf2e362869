"""How fast a part is, alone and at its full size: commands, not tests. docs/performance.md has what they said."""
