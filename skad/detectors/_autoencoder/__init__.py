"""The autoencoder: reconstruct each row; the residual is score and explanation."""
