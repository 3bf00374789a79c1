"""What a user writes, for type checkers alone: ``.ci/types`` checks it, nothing runs it."""

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import IsolationForest
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from torch.utils.data import TensorDataset

import skad
from skad import FCDD, KDE, Bag, ConformalDetector, InlierTraining, explain
from skad.benchmark import benchmark, rank_table
from skad.explanation import LinearMap, decompose, linear_map
from skad.metrics import ExplanationAwareScorer, cosine_similarity_score

Floats = npt.NDArray[np.float64]
X, y, mask = skad.datasets.load_corrupted_digits("stripe", return_X_y_mask=True)

kde = KDE(kernel="student", false_alarm_rate=0.05).fit(X[y == 1])
assert_type(kde, KDE)
assert_type(KDE().fit([[0.0], [1.0]]).score_samples([[2.0]]), Floats)
assert_type(kde.predict(X), npt.NDArray[np.int_])
assert_type(kde.offset_, float)
assert_type(Bag([("kde", kde)], weights=[1]).fit(X).unattributed(X), Floats)

forest = IsolationForest().fit(X)
assert_type(explain(forest, X, space="model", references=X), Floats)
assert_type(decompose(forest, X).threshold, float | None)
assert_type(linear_map(StandardScaler().fit(X), X), LinearMap | None)
linear_map.register(StandardScaler, linear_map.by_unit_vectors)


class Mine(KDE):
    pass


@explain.register(Mine)
def rule(estimator: Any, X: Any, **options: Any) -> Floats:
    return np.zeros_like(X)


scorer = ExplanationAwareScorer("cosine", weight=0.5)
GridSearchCV(InlierTraining(kde), {"estimator__df": [1.0]}, scoring=scorer).fit(X, y)
assert_type(InlierTraining(forest).fit(X, y).score_samples(X), Floats)
conformal = ConformalDetector(KDE(), calibration="cross", random_state=0).fit(X)
assert_type(conformal.select(X, max_false_discovery_rate=0.1), npt.NDArray[np.bool_])
assert_type(cosine_similarity_score(mask, kde.explain(X)), float)
assert_type(cosine_similarity_score(mask, kde.explain(X), average=None), Floats)
rank_table(benchmark(["kde"], {"digits": (X, y)}, seeds=[0, 1]), by="roc_auc").round(2)
display = skad.plotting.ExplanationDisplay.from_estimator(kde, X, labels=["a", "b"])
display.plot(max_rows=2).figure_.savefig("rows.png")

images = TensorDataset(torch.zeros(8, 3, 32, 32))
fcdd = FCDD(network="paper32", lr_schedule=None, outliers="confetti").fit(images)
assert_type(fcdd, FCDD)
assert_type(fcdd.heatmap(images, upsampling=None), Floats)
assert_type(fcdd.score_samples(images), Floats)
assert_type(fcdd.history_, dict[str, list[float]])
lazy = skad.datasets.LazyImages(np.array(["a.png"]), lambda files: X, (8, 8), float)
assert_type(skad.GEO(transforms="upright").fit(lazy).explain_views(lazy), Floats)
assert_type(skad.AutoEncoder(hidden=(32, 8)).fit(X).transform(X), Floats)
assert_type(skad.neural.fit_features(X, y), skad.neural.FeatureNet)
