"""
Tests of the tests: changes that somebody could make in good faith, each of which breaks a promise about money.

Each is made to a copy of the tree, and the tests that it names must fail there; without it they pass. A test
that stays green has nothing to say about what it is named for. `make sabotage` does all of them.
"""
