"""Networks that keep normal rows near a centre: DeepSVDD, DeepSAD, HSC."""
