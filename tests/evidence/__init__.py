"""
`make evidence`: the long versions of what looks for mistakes with money, and what they found, written down.

One JSON file for each part in docs/evidence, and one page made from them, docs/evidence.md. A part that was
done at this commit is not done again, so that a broken run goes on where it was; ONLY names one to be done
in any case, SHORT=1 takes the size that the test suite has.
"""
