"""From the outside to a Program: modules, transformers models, exported programs, `.pt2` files, fx graph modules."""
