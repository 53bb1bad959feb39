"""Manifests: tables in CSV, TSV or Parquet, however a program wrote them."""
