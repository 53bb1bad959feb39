"""One file per objective; `registry` maps each training config to its objective."""
