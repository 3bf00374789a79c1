"""DeepOneClass: whitened features of a trained network."""
