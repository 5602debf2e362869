"""A Django database backend that brings its own PostgreSQL: docs/decisions/0002-embedded-postgres.md."""
