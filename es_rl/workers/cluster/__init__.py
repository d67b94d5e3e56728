"""Workers on the machines of a cluster, by Ray: one actor for each worker. Theta has the same bits as on one machine.

`pool` runs in the process that trains, `actor` in each worker. Ray is imported only when a run asks for a cluster.
"""
