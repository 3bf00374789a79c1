"""GEO: a network tells geometric views apart; Dirichlet scores."""
