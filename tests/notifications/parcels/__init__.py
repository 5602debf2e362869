"""A kind of a test's own: parcels, which a carrier takes. It joins by DISPATCHED_KINDS alone."""
