"""Boost vectors by a multi-task net that is trained on the labels of the catalogue."""
