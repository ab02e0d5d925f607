"""One way to write, for every store: work is queued, grouped, and forced together."""
