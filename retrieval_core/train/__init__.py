"""Training backbones on the catalogue's own pictures: one file per objective, one Lightning loop for all."""
