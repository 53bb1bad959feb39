"""Training backbones on the catalogue's own pictures: one file an objective, Lightning runs the loop."""
