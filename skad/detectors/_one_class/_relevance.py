"""Relevance of a network's score by its input: LRP, or shares of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import torch

from skad._sklearn import Interval, StrOptions
from skad.neural._blocks import in_small_parts
from skad.neural._feature_net import FeatureNet
from skad.neural._parts import Scoring, Trained
from skad.relevance._modules import linear_layers

__all__ = ["EXPLANATION_CONSTRAINTS", "scoring_of"]

EXPLANATION_CONSTRAINTS: dict[str, Any] = {
    "explanation": [StrOptions({"lrp", "gradient"})],
    "gamma": [Interval(Real, 0, None, closed="left")],
}


def scoring_of(
    trained: Trained,
    net: FeatureNet,
    score: Callable[[torch.Tensor], torch.Tensor],
    top: Callable[[torch.Tensor], torch.Tensor],
    *,
    explanation: str,
    gamma: float,
) -> Scoring:
    """Return how the features of a network score, explained by its input.

    Parameters
    ----------
    trained : Trained
    net : FeatureNet
        The network, of ``trained.module``.
    score : callable
        From features (n, D) to outlier scores (n,).
    top : callable
        From features (n, D) to a tensor (n,) whose gradient c gives the relevance
        ``a_j c_j`` of a feature.
    explanation : {"lrp", "gradient"}
    gamma : float
        Of LRP.
    """

    def relevance(X):
        # In inference mode, the caller's, autograd would refuse the tensors.
        with torch.inference_mode(False), torch.enable_grad():
            if explanation == "lrp":
                explain = _lrp(trained, net, top, gamma)
            else:
                explain = _by_gradient(net, score)
            return in_small_parts(
                explain, X, lambda part: trained.units.prepare(part).to(trained.device)
            )

    return Scoring(score=lambda batch: score(net(batch)), relevance=relevance)


def _lrp(trained, net, top, gamma):
    zeros = next(net.parameters()).new_zeros(trained.units.row_shape)
    if trained.units.image_shape is not None:
        box = {"input_rule": "zbox", "low": zeros, "high": zeros + 1}
        explainer = net.explainer(gamma=gamma, **box)
    else:  # standardised columns, of both signs, are compared with their means
        first, *others = linear_layers(net.layers)
        gammas = {first: 0.0} | dict.fromkeys(others, gamma)
        explainer = net.explainer(gamma=gammas, reference=zeros)
    return lambda rows: explainer(rows, top)


def _by_gradient(net, score):
    def explain(rows):
        rows = rows.requires_grad_()
        scores = score(net(rows))
        (gradient,) = torch.autograd.grad(scores.sum(), rows)
        share = gradient.abs().flatten(1).double()
        total = share.sum(dim=1, keepdim=True)
        return scores.detach()[:, None] * share / torch.where(total > 0, total, 1)

    return explain
