"""Many rows: edits in units, the processes and machines that work on them, and what survives a kill.

What is done: `plan` (the units of an output), `planning` (from SOURCE to units), `reading` and `json_lines` (the rows
of a unit), `unit` (one unit: read, edited, written, committed), `failures` (rows that the prior fails on), `job` (an
output and its manifests), `storage` and `object_store` (where it is kept), `edited` and `finish` (a whole output from
units).

Who does it: `workers` (processes of this machine), `launches` (ranks elsewhere), `slurm`, `ray_workers`, `hub_jobs`,
`launchers` (one call at a time on an output), `interrupts` (signals, and workers that end with their parent), `mapping`
(`map` in processes, for commands that write no rows).

What is told: `progress`, `status`, `estimate`, `publishing` (finished rows go to the Hub while others are edited).
"""
