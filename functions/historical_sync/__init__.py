"""Historical syncs: a date range of a connection's data, window by window."""
