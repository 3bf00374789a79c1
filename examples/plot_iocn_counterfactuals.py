"""
The normal row instead: value and normal value
==============================================

IOCN learned what is normal from one cultivar of scikit-learn's wines. For wines of another,
it says which features made the score, and gives a wine of the first cultivar instead: z of
the odd one, clipped to the cube, and from there so far back to the nearest of the training
rows that all four networks agree.

That is a normal row, not the nearest one, and many features change a little. Which of them
made the score is for ``explain`` to say.

Run it with ``python examples/plot_iocn_counterfactuals.py``; it takes some ten seconds and
leaves its picture in ``iocn_counterfactuals.png``.
"""

import numpy as np
from sklearn.datasets import load_wine

from skad import IOCN
from skad.plotting import CounterfactualDisplay

wine = load_wine()
normal, odd = wine.data[wine.target == 0], wine.data[wine.target == 1]
iocn = IOCN(random_state=0).fit(normal)

# %%
# The warning: with 59 wines, few of those held out lie within the cube. So a score above 0
# makes no wine abnormal; ``predict``, by a quantile of the scores, calls all of the other
# cultivar abnormal, and a tenth of the first. What is given instead scores 0 at most.
found = iocn.counterfactual(odd)
print(f"others that score above 0: {(iocn.score_samples(odd) < 0).mean():.0%}")
for what, wines in {"others": odd, "first cultivar": normal}.items():
    print(f"{what} that are flagged: {(iocn.predict(wines) == -1).mean():.0%}")
print(f"highest score of what is given instead: {-iocn.score_samples(found).min():.1e}")

# %%
# How far is it to there, and to the nearest training row? In standard deviations of the
# normal wines:
scale = normal.std(axis=0)
moved = np.linalg.norm((found - odd) / scale, axis=1)
nearest = np.linalg.norm((normal[:, None] - odd) / scale, axis=2).min(axis=0)
print(f"medians: {np.median(moved):.1f} and {np.median(nearest):.1f}")

# %%
# Which features made the score of the first four, and what would be normal.
for row in iocn.explain(odd[:4]):
    print([wine.feature_names[i] for i in np.argsort(-row)[:3]])
display = CounterfactualDisplay.from_estimator(
    iocn, odd[:4], max_features=6, feature_names=wine.feature_names
)
display.figure_.savefig("iocn_counterfactuals.png", dpi=120)
