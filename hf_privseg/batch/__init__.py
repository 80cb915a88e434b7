"""Batch jobs: many images through encryption, translation or a model, on one machine or on a cluster of Ray.

A job is planned once (`plan`): its sources are listed and cut into chunks (`sources`), each of which is read, worked
on and written in parts (`work`). A part is a parquet file that exists as a whole or not at all, and that the same
chunk always writes under the same name: so the parts that are there are all that a job has to know to go on. Who runs
the chunks is an engine: processes of this machine (`local_engine`) or Ray Data (`ray_engine`).

What goes to workers is the path of a key's file or the name of an environment variable, never a key.
"""
