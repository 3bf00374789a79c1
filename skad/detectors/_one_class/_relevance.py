"""Relevance of a network's score by its input: LRP, or shares of the gradient."""

from numbers import Real

import numpy as np
import torch

from skad._sklearn import Interval, StrOptions
from skad.neural._blocks import block_rows
from skad.relevance._modules import linear_layers

__all__ = ["NetworkRelevance"]


class NetworkRelevance:
    """What detectors that score the output of a `FeatureNet` add to explain it.

    A class has the parameters `explanation` and `gamma`, and writes

    - ``_feature_net``: the network;
    - ``_top(features)``: a tensor (n,) whose gradient c gives the relevance ``a_j c_j`` of
      a feature;
    - ``_score_of(features)``: outlier scores, a tensor (n,).
    """

    _parameter_constraints = {
        "explanation": [StrOptions({"lrp", "gradient"})],
        "gamma": [Interval(Real, 0, None, closed="left")],
    }

    @property
    def _ignores_constant_features(self):
        return self.explanation == "lrp"  # such a column lies at its mean

    def _score_block(self, batch):
        return self._score_of(self._feature_net(batch))

    def _relevance(self, X):
        # In that mode of the caller's, gradients are what autograd can't take.
        with torch.inference_mode(False), torch.enable_grad():
            explain = self._lrp() if self.explanation == "lrp" else self._by_gradient
            device = next(self._feature_net.parameters()).device
            # A row takes some four times the memory that it takes in scoring.
            n_parts = -(-len(X) // max(1, block_rows(X.shape[1]) // 4))
            return np.concatenate(
                [
                    explain(self._prepare(part).to(device))
                    .flatten(1)
                    .double()
                    .cpu()
                    .numpy()
                    for part in np.array_split(X, n_parts)
                ]
            )

    def _unattributed(self, X):
        return self._outlier_score(X) - self._relevance(X).sum(axis=1)

    def _lrp(self):
        net = self._feature_net
        zeros = next(net.parameters()).new_zeros(self._row_shape)
        if self.image_shape_ is not None:
            box = {"input_rule": "zbox", "low": zeros, "high": zeros + 1}
            explainer = net.explainer(gamma=self.gamma, **box)
        else:  # standardised columns, of both signs, are compared with their means
            first, *others = linear_layers(net.layers)
            gammas = {first: 0.0} | dict.fromkeys(others, self.gamma)
            explainer = net.explainer(gamma=gammas, reference=zeros)
        return lambda rows: explainer(rows, self._top)

    def _by_gradient(self, rows):
        rows = rows.requires_grad_()
        scores = self._score_of(self._feature_net(rows))
        (gradient,) = torch.autograd.grad(scores.sum(), rows)
        share = gradient.abs().flatten(1).double()
        total = share.sum(dim=1, keepdim=True)
        return scores.detach()[:, None] * share / torch.where(total > 0, total, 1)
