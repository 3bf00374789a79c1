"""Metrics: localisation, faithfulness, the Clever Hans score, a scorer for searches."""

from skad.metrics._clever_hans import clever_hans_report, clever_hans_score
from skad.metrics._concentration import mean_distance_agreement
from skad.metrics._faithfulness import pixel_flipping_curve
from skad.metrics._localization import (
    aupro_score,
    cosine_similarity_score,
    pixel_roc_auc_score,
    pointing_game_score,
    relevance_mass_score,
    relevance_rank_score,
)
from skad.metrics._scorer import ExplanationAwareScorer

__all__ = [
    "ExplanationAwareScorer",
    "aupro_score",
    "clever_hans_report",
    "clever_hans_score",
    "cosine_similarity_score",
    "mean_distance_agreement",
    "pixel_flipping_curve",
    "pixel_roc_auc_score",
    "pointing_game_score",
    "relevance_mass_score",
    "relevance_rank_score",
]
