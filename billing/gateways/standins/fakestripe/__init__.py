"""
A payment provider of our own that speaks Stripe's HTTP API and keeps its own durable book.

It moves no money. The official SDK drives it unmodified; `docs/fakestripe.md` says where it is
faithful and where it is not. Nothing here knows Django or our models: it is the other party.
"""
