"""What runs the shards of a run, side by side: this machine, a Dask cluster, and Prefect's work pools."""
