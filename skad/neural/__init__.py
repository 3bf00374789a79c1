"""Networks: trained through skorch, scored in blocks, saved as plain tensors."""

from skad.neural._detector import NeuralDetector

__all__ = ["NeuralDetector"]
