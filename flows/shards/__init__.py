"""What runs a task over the shards of a plan: this machine, a Dask cluster, or Prefect's work pools."""
