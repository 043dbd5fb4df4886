"""CEL, the part that conditions use: source to tree, tree to type-checked closures, and what values do."""
