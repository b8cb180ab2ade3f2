"""The worker: claims executions and runs them. It moves data; Postgres decides whether it still may.

protocol.py   the calls of a lease holder, as the SQL functions answer them
engine.py     one execution: lease, heartbeat, commit, cancel, retry, time budget
loop.py       many executions: claim, reap, wake-up, shutdown
outbox.py     events about executions that have ended
forgetting.py secrets outside that nobody needs any more
deployment.py all of these from the environment, for a process of its own and for cloud.py, which the cloud calls
runners/      what a family does: a generator of batches
connectors/   how a system is read
"""
