"""What a run makes: manifests, their names, the parts they are made of, releases."""
