"""One adapter a file: how the backbones of one library are built, loaded and run."""
