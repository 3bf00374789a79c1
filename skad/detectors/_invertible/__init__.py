"""Invertible networks: onto a cube (IOCN), or to a normal distribution (a flow)."""
