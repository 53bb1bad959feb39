"""The databases that a release can be exported to, one file each."""
