"""Reading policy files: YAML to nodes, nodes to checked values, every mistake with its file and line."""
