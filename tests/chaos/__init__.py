"""`make torture`: what is promised, under attack; bounded by time, its choices made by a seed."""
