"""FCDD: the map of a fully convolutional network is score and explanation."""
