"""Explanations through pipelines and from outside, against what is known by hand."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pyod.models.knn import KNN
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)

from skad import KDE, InlierTraining, PyODDetector, explain
from skad.explanation import (
    Decomposition,
    decompose,
    occlude,
    patch_groups,
    pull_back,
    refuse_space,
    shapley_values,
)
from skad.explanation._occlusion import Exchange
from skad.images import GlobalContrastNormalizer


@pytest.fixture
def X():
    return np.random.default_rng(0).standard_normal((80, 4)) * [1, 10, 100, 1000]


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", "green", "blue"], 60)
    return pd.DataFrame(
        {"a": rng.standard_normal(60), "colour": colour, "b": rng.random(60), "skip": 1.0}
    )


def test_scalers_are_undone_in_both_spaces(X):
    model = make_pipeline(StandardScaler(), "passthrough", MinMaxScaler(), KDE()).fit(X)
    relevance = model[-1].explain(model[:-1].transform(X))
    assert_allclose(explain(model, X), relevance)
    assert_allclose(explain(model, X, space="model"), relevance)


def test_selected_features_go_back_to_their_places(X):
    X = np.insert(X, 1, 5.0, axis=1)
    model = make_pipeline(VarianceThreshold(), StandardScaler(), KDE()).fit(X)
    inner = explain(model, X, space="model")
    assert inner.shape == (80, 4)
    assert_allclose(explain(model, X)[:, [0, 2, 3, 4]], inner)
    assert (explain(model, X)[:, 1] == 0).all()


def test_columns_of_a_frame(frame):
    transform = make_column_transformer(
        (OneHotEncoder(), ["colour"]), ("passthrough", ["b"]), (StandardScaler(), ["a"])
    )
    model = make_pipeline(transform, KDE(bandwidth=1.0)).fit(frame)
    inner = explain(model, frame, space="model")  # blue, green, red, b, a
    expected = np.c_[inner[:, 4], inner[:, :3].sum(axis=1), inner[:, 3], np.zeros(60)]
    assert_allclose(explain(model, frame), expected)


def test_imputers_indicators_bins_and_unions(X):
    X[::3, 2] = np.nan
    imputer = SimpleImputer(add_indicator=True).fit(X)
    relevance = np.arange(5.0) + np.zeros((80, 1))
    assert_allclose(pull_back(imputer, X, relevance)[0], [0, 1, 2 + 4, 3])
    X = np.nan_to_num(X)
    bins = KBinsDiscretizer(2, encode="onehot-dense", strategy="uniform")
    wide = np.arange(8.0) + np.zeros((80, 1))
    assert_allclose(pull_back(bins.fit(X), X, wide)[0], [1, 5, 9, 13])
    union = FeatureUnion([("a", StandardScaler()), ("b", MinMaxScaler())]).fit(X)
    assert_allclose(pull_back(union, X, wide)[0], [4, 6, 8, 10])


def test_imputers_drop_features_never_seen(X):
    relevance = np.arange(4.0) + np.zeros((80, 1))
    X[:, 0] = np.nan
    for imputer in (KNNImputer(), SimpleImputer()):
        assert_allclose(pull_back(imputer.fit(X), X, relevance[:, :3])[0], [0, 0, 1, 2])
        imputer.set_params(keep_empty_features=True).fit(X)
        assert_allclose(pull_back(imputer, X, relevance[:, :4])[0], [0, 1, 2, 3])


def test_dropped_and_rare_levels():
    X = np.array([["a"], ["a"], ["b"], ["b"], ["c"]] * 4)
    encoder = OneHotEncoder(drop="first", min_frequency=5).fit(X)
    width = encoder.transform(X).shape[1]
    relevance = np.random.default_rng(0).random((20, width))
    assert_allclose(pull_back(encoder, X, relevance)[:, 0], relevance.sum(axis=1))


@pytest.mark.parametrize(
    "step",
    [
        PolynomialFeatures(),
        Normalizer(),
        GlobalContrastNormalizer(),
        FunctionTransformer(np.log1p),
    ],
)
def test_mixing_transformers_are_refused_with_advice(X, step):
    model = make_pipeline(step, KDE()).fit(abs(X))
    with pytest.raises(TypeError, match=r"space='model'.*references=.*pull_back\.register"):
        explain(model, abs(X))
    assert len(explain(model, abs(X), space="model")) == 80
    from_outside = shapley_values(model, abs(X), abs(X)).relevance
    assert_allclose(explain(model, abs(X), references=abs(X)), from_outside)
    assert_allclose(InlierTraining(model).fit(abs(X)).explain(abs(X)), from_outside)


def test_columns_that_mix_before_or_in_inlier_training_are_undone(X):
    before = make_pipeline(StandardScaler(), PCA(2), InlierTraining(KDE())).fit(X)
    within = InlierTraining(make_pipeline(StandardScaler(), PCA(2), KDE())).fit(X)
    assert_allclose(explain(before, X), within.explain(X))


def test_searches_nested_pipelines_and_n_d_input(X):
    search = GridSearchCV(
        make_pipeline(make_pipeline(StandardScaler()), KDE()),
        {"kde__bandwidth": [0.5, 1.0]},
        scoring=lambda model, X, y=None: model.score_samples(X).mean(),
    ).fit(X)
    assert_allclose(explain(search, X), explain(search.best_estimator_, X))
    images = X.reshape(80, 2, 2)
    model = make_pipeline(FunctionTransformer(), KDE()).fit(images)
    assert explain(model, images).shape == (80, 2, 2)


def test_teaching_rules(X):
    class Mirrored(FunctionTransformer):
        pass

    class Constant(IsolationForest):
        pass

    pull_back.register(Mirrored, lambda transformer, X, relevance: relevance[:, ::-1])
    explain.register(Constant, lambda e, X, **_: np.tile(np.arange(4.0), (len(X), 1)))
    model = make_pipeline(Mirrored(np.fliplr), Constant(n_estimators=2)).fit(X)
    assert (explain(model[-1], X) == [0, 1, 2, 3]).all()
    assert (explain(model, X) == [3, 2, 1, 0]).all()

    pull_back.register(Mirrored, lambda transformer, X, relevance: relevance / 2)
    with pytest.raises(ValueError, match="sum of each row; one of 6 became 3"):
        explain(model, X)


def test_a_rule_of_a_wrong_shape(X):
    class Flat(IsolationForest):
        pass

    decompose.register(Flat)(
        lambda e, X, space=None: Decomposition(np.ones(len(X)), np.ones(len(X)), "q")
    )
    with pytest.raises(ValueError, match=r"shape \(80,\).*\(80, 4\) and \(80,\)"):
        explain(Flat(n_estimators=2).fit(X), X)

    class Even(IsolationForest):
        pass

    @decompose.register
    def _(even: Even, X, space=None):
        refuse_space(even, space)
        return Decomposition(np.ones(X.shape), np.ones(80), "q")

    assert (explain(Even(n_estimators=2).fit(X), X) == 1).all()
    rotated = make_pipeline(PCA(), Even(n_estimators=2)).fit(X)
    with pytest.raises(TypeError, match="no rule says"):  # the rule refuses the space
        explain(rotated, X)


def test_columns_that_stay_themselves(X):
    """Declared one-to-one; and a ColumnTransformer that sees more columns than it chose."""
    logs = FunctionTransformer(np.log1p, feature_names_out="one-to-one")
    model = make_pipeline(logs, KDE()).fit(abs(X))
    assert_allclose(
        explain(model, abs(X)),
        KDE().fit(logs.transform(abs(X))).explain(logs.transform(abs(X))),
    )
    frame = pd.DataFrame(X, columns=list("abcd"))
    chosen = make_pipeline(
        ColumnTransformer([("some", StandardScaler(), ["b", "d"])]), KDE()
    )
    chosen.fit(frame)
    further = explain(chosen, frame.assign(e=1.0))
    assert_allclose(further, np.pad(explain(chosen, frame), ((0, 0), (0, 1))))


class ToTheMedian(OutlierMixin, BaseEstimator):
    """A detector that no rule knows."""

    def fit(self, X, y=None):
        self.median_ = np.median(X, axis=0)
        return self

    def score_samples(self, X):
        return -abs(X - self.median_).max(axis=1)


def test_detectors_without_a_rule_need_references(X):
    detector = ToTheMedian().fit(X)
    for model in (detector, make_pipeline(StandardScaler(), detector).fit(X)):
        with pytest.raises(ValueError, match="InlierTraining"):
            explain(model, X)
        from_outside = shapley_values(model, X[:3], X).relevance
        assert_allclose(explain(model, X[:3], references=X), from_outside)
    projected = make_pipeline(PCA(2), detector).fit(X)
    assert explain(projected, X[:3], references=X).shape == (3, 4)
    assert explain(projected, X[:3], references=X, space="model").shape == (3, 2)


def test_what_cannot_be_explained(X):
    y = np.arange(80) % 2
    with pytest.raises(ValueError, match="space must be"):
        explain(KDE(), X, space="latent")
    with pytest.raises(NotFittedError):
        explain(IsolationForest(), X)
    with pytest.raises(NotFittedError):
        explain(make_pipeline(StandardScaler(), KDE()), X)
    with pytest.raises(TypeError, match="StandardScaler can't be explained"):
        explain(StandardScaler().fit(X), X)
    with pytest.raises(ValueError, match="LogisticRegression has no explanation"):
        explain(LogisticRegression().fit(X, y), X)


class Additive:
    """o(x) = sum_i w_i x_i: occlusion has a closed form."""

    weights = np.array([1.0, -2.0, 0.0, 3.0])

    def score_samples(self, X):
        return -(X.reshape(len(X), -1) @ self.weights)


def test_occlusion_of_an_additive_score(X):
    references = np.random.default_rng(1).standard_normal((5, 4))
    one_by_one = occlude(Additive(), X, references, n_references=5)
    expected = Additive.weights * (X - references.mean(axis=0))
    assert_allclose(one_by_one, expected, atol=1e-9)
    groups = [0, 0, 7, 7]
    grouped = occlude(Additive(), X, references, groups=groups, n_references=5)
    halves = expected.reshape(80, 2, 2).sum(axis=2) / 2
    assert_allclose(grouped, np.repeat(halves, 2, axis=1), atol=1e-9)
    images = occlude(
        Additive(), X.reshape(80, 2, 2), references.reshape(5, 2, 2), n_references=5
    )
    assert_allclose(images, expected.reshape(80, 2, 2), atol=1e-9)


def test_occlusion_compares_with_the_nearest():
    references = np.array([[0.0, 0, 0, 0], [1.0, 1, 1, 1], [9.0, 9, 9, 9]])
    relevance = occlude(Additive(), np.ones((1, 4)) * 1.1, references, n_references=1)
    assert_allclose(relevance[0], Additive.weights * 0.1)


@pytest.mark.parametrize(
    "levels",
    [[True, False], np.array([1, 2], dtype=object), pd.Categorical([1, 2]), ["u", "v"]],
    ids=["bool", "objects", "categories of int", "str"],
)
def test_normal_rows_are_chosen_by_levels_of_any_kind(levels):
    levels = pd.Series(levels)
    references = pd.DataFrame({"a": [0.0, 5.0], "b": levels})
    odd = pd.DataFrame({"a": [0.1], "b": levels[1:].reset_index(drop=True)})
    assert Exchange(odd, references, None, 1).donors.tolist() == [[1]]


def test_normal_rows_are_near_whatever_the_mean():
    X = np.random.default_rng(0).normal([0, 1e9, 0], 1, (200, 3))
    assert_array_equal(Exchange(X, X, None, 1).donors[:, 0], np.arange(200))


def test_occlusion_in_chunks(X, monkeypatch):
    whole = occlude(Additive(), X, X)
    monkeypatch.setattr("skad.explanation._occlusion._CHUNK", 50)
    assert_allclose(occlude(Additive(), X, X), whole)


def test_occlusion_of_a_frame(frame):
    encode = make_column_transformer(
        (OneHotEncoder(), ["colour"]), remainder=StandardScaler()
    )
    model = InlierTraining(make_pipeline(encode, LocalOutlierFactor(novelty=True))).fit(
        frame
    )
    odd = frame.iloc[:1].assign(b=30.0)
    assert model.explain(odd).argmax() == 2
    assert (model.explain(odd)[:, 3] == 0).all()


def test_occlusion_of_mixed_arrays_and_missing_numbers(frame):
    frame["whole"] = pd.array(range(60), dtype="Int64")
    frame.loc[3, "whole"] = pd.NA

    class Levels:
        def score_samples(self, X):
            return -(np.asarray(X)[:, 1] == "odd").astype(float)

    odd = frame.iloc[:2].assign(colour=["odd", "red"])
    for X, references in ((odd, frame), (odd.to_numpy(), frame.to_numpy())):
        assert_allclose(occlude(Levels(), X, references), [[0, 1, 0, 0, 0], [0] * 5])


def test_occlusion_prefers_rows_of_the_same_levels():
    references = pd.DataFrame({"price": [150.0, 100, 102, 155], "colour": list("brrb")})
    odd = pd.DataFrame({"price": [190.0], "colour": ["r"]})

    class PriceOfItsColour:
        def score_samples(self, X):
            return -abs(X["price"] - np.where(X["colour"] == "r", 100, 150))

    relevance = occlude(PriceOfItsColour(), odd, references, n_references=2)
    assert_allclose(relevance, [[90 - 1, 0]])


def test_rules_of_the_wrong_shape_are_named(X):
    class Careless(FunctionTransformer):
        pass

    pull_back.register(Careless, lambda transformer, X, relevance: relevance[:, :2])
    with pytest.raises(ValueError, match=r"Careless gave shape \(80, 2\).*\(80, 4\)"):
        explain(make_pipeline(Careless(), KDE()).fit(X), X)


def test_lists_through_pipelines(X):
    union = FeatureUnion([("a", "passthrough"), ("b", StandardScaler())])
    model = make_pipeline(union, KDE()).fit(X)
    assert_allclose(explain(model, X.tolist()), explain(model, X))


def test_occlusion_refuses_what_does_not_fit(X):
    with pytest.raises(
        ValueError, match=r"references have shape \(3,\) a row, X has \(4,\)"
    ):
        occlude(Additive(), X, X[:, :3])
    with pytest.raises(ValueError, match="names 3 features, X has 4"):
        occlude(Additive(), X, X, groups=[0, 1, 2])
    for bad in (0, -1, 2.5):
        with pytest.raises(ValueError, match="n_references must be a positive int"):
            occlude(Additive(), X, X, n_references=bad)
    with pytest.raises(TypeError, match=r"X\.toarray\(\)"):
        occlude(Additive(), csr_array(X), X)
    with pytest.raises(ValueError, match="references hold no row"):
        occlude(Additive(), X, X[:0])


def value(model, row, donor, own):
    return -model.score_samples(np.where(own, row, donor)[None])[0]


def shapley_by_hand(model, row, donor):
    """Average over all orders of the four features."""
    total = np.zeros(4)
    for order in permutations(range(4)):
        own = np.zeros(4, dtype=bool)
        for i in order:
            before, own = value(model, row, donor, own), own | (np.arange(4) == i)
            total[i] += value(model, row, donor, own) - before
    return total / 24


class Interacting:
    def score_samples(self, X):
        return -(X[:, 0] * X[:, 1] * X[:, 2] + np.sin(X[:, 3]) * X[:, 0] + X[:, 1])


def test_sampled_shapley_values_against_all_orders():
    X, references = np.random.default_rng(0).standard_normal((2, 3, 4))
    sampled = shapley_values(Interacting(), X, references, n_permutations=400)
    exact = [
        np.mean(
            [shapley_by_hand(Interacting(), row, donor) for donor in references], axis=0
        )
        for row in X
    ]
    assert (abs(sampled.relevance - exact) < 4 * sampled.standard_error + 1e-9).all()
    assert 0 < sampled.standard_error.max() < 0.05
    few = shapley_values(Interacting(), X, references, n_permutations=2)
    for result in (sampled, few):  # the sum holds for any number of orders
        total = result.relevance.sum(axis=1) + result.unattributed
        assert_allclose(total, -Interacting().score_samples(X))
    assert np.isnan(few.standard_error).all()
    assert_allclose(few.unattributed, -Interacting().score_samples(references).mean())


def test_sampled_shapley_values_of_pairs_groups_and_images(X, capsys):
    class Pairs:
        def score_samples(self, X):
            X = X.reshape(len(X), -1)
            return -(X[:, 0] * X[:, 1] + X[:, 3])

    # An order and its reverse are exact where features interact in pairs.
    r, references = X[0] + 1, X[:1] + 1
    pairs = shapley_values(Pairs(), X, references, n_permutations=4)
    half = (
        0.5 * (X[:, 0] - r[0]) * (X[:, 1] + r[1]),
        0.5 * (X[:, 1] - r[1]) * (X[:, 0] + r[0]),
    )
    expected = np.c_[half[0], half[1], np.zeros(80), X[:, 3] - r[3]]
    assert_allclose(pairs.relevance, expected, atol=1e-9)
    assert pairs.standard_error.max() < 1e-9
    images = X.reshape(80, 2, 2)
    grouped = shapley_values(
        Pairs(), images, references.reshape(1, 2, 2), groups=[[0, 0], [1, 1]], progress=True
    )
    together = (expected.reshape(80, 2, 2).sum(axis=2) / 2).repeat(2).reshape(80, 2, 2)
    assert_allclose(grouped.relevance, together, atol=1e-9)
    assert "Shapley values: 100%" in capsys.readouterr().err


def test_sampled_shapley_values_are_seeded_and_chunked(X, monkeypatch):
    whole = shapley_values(Interacting(), X, X[::-1] + 1)
    state = np.random.get_state()[1].copy()
    monkeypatch.setattr("skad.explanation._shapley._CHUNK", 100)
    again = shapley_values(Interacting(), X, X[::-1] + 1)
    assert_allclose(again.relevance, whole.relevance)
    other = shapley_values(Interacting(), X, X[::-1] + 1, random_state=1)
    assert abs(other.relevance - whole.relevance).max() > 1
    assert (np.random.get_state()[1] == state).all()
    for bad in (0, 3, 2.0):
        with pytest.raises(ValueError, match="n_permutations must be an even number"):
            shapley_values(Interacting(), X, X, n_permutations=bad)


def test_rows_of_a_block_do_not_matter(X, monkeypatch):
    whole = shapley_values(Interacting(), X[:9], X)
    for name, value in (("_NUMBERS", 12), ("_HELD", 50)):
        monkeypatch.setattr(f"skad.explanation._shapley.{name}", value)
    assert_allclose(shapley_values(Interacting(), X[:9], X).relevance, whole.relevance)


def test_labels_of_groups(X):
    for groups in ([1.5, np.nan, np.nan, 0], list("abbc")):
        relevance = occlude(Additive(), X[:2], X, groups=groups)
        assert_allclose(relevance, occlude(Additive(), X[:2], X, groups=[0, 1, 1, 2]))
    with pytest.raises(ValueError, match="labels of one kind"):
        occlude(Additive(), X, X, groups=np.array(["a", None, "b", 2], dtype=object))


def test_references_are_matched_by_their_columns(frame):
    class Price:
        def score_samples(self, X):
            return -np.asarray(X["a"], dtype=float)

    odd = frame.iloc[:3].assign(a=9.0)
    straight = shapley_values(Price(), odd, frame)
    turned = shapley_values(Price(), odd, frame[["skip", "b", "colour", "a"]])
    assert_allclose(straight.relevance, turned.relevance)
    with pytest.raises(ValueError, match="references have the columns"):
        shapley_values(Price(), odd, frame[["a", "b"]])
    with pytest.raises(TypeError, match="both be data frames, or both arrays"):
        shapley_values(Price(), odd, frame.to_numpy())
    frame["colour"] = frame["colour"].astype("category")
    new = frame.iloc[:2].assign(colour=pd.Categorical(["pink", "red"]))
    assert shapley_values(Price(), new, frame).relevance.shape == (2, 4)


def test_patches():
    groups = patch_groups((3, 5, 6), 2)
    assert groups.shape == (3, 5, 6) and len(np.unique(groups)) == 9
    assert (groups[0] == groups[2]).all() and (groups[0, :2, :2] == 0).all()
    with pytest.raises(ValueError, match="positive integer, got 0"):
        patch_groups((5, 6), 0)


def test_raw_pyod_detectors_are_explained_with_the_right_sign(X):
    outlier = np.zeros((1, 4))
    outlier[0, 2] = 900
    raw = KNN().fit(X)
    assert explain(raw, outlier, references=X).argmax() == 2
    assert PyODDetector(KNN()).fit(X).explain(outlier).argmax() == 2
