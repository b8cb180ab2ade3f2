"""`make chaos`: attacks the invariants for a bounded time, with choices made by a seed."""
