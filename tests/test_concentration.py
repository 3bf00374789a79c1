"""Agreement with the distance to the mean: by hand, by brute force, as the paper says."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import rankdata
from sklearn.covariance import EllipticEnvelope
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning

from skad import KDE
from skad.metrics import mean_distance_agreement

LN2 = np.sqrt(1 / (2 * np.log(2)))  # sigma of gamma = ln 2


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def brute_force(kde, X, templates):
    """Row by row, from the definitions, with log kernels as KDE's docstring has them."""
    distance, cosine, share = [], [], []
    for x in X:
        squares = (x - templates) ** 2
        d = squares.sum(axis=1)
        if kde.kernel == "gaussian":
            weights = np.exp(-d / (2 * kde.bandwidth**2))
            p = c = weights / weights.sum()
        else:
            h = kde.df * kde.bandwidth**2 + d
            p = h**-kde.power / (h**-kde.power).sum()
            c = p / h
        relevance, wide = c @ squares, squares.mean(axis=0)
        norms = np.linalg.norm(relevance) * np.linalg.norm(wide)
        cosine.append(relevance @ wide / norms)
        share.append(np.prod(p**-p) / len(templates))
        distance.append(np.linalg.norm(x - templates.mean(axis=0)))
    ranks = rankdata(-kde.score_samples(X)), rankdata(distance)
    return np.corrcoef(*ranks)[0, 1], cosine, share


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "kde",
    [
        KDE(bandwidth=0.7),
        KDE(bandwidth=5.0),
        KDE(kernel="student", bandwidth=1.0, power=2.5, df=3.0),
    ],
)
def test_is_its_definition(kde, dtype, rng):
    templates, X = rng.normal(size=(40, 4)) + 3, rng.normal(size=(25, 4)) * 2 + 3
    result = mean_distance_agreement(kde.set_params(dtype=dtype).fit(templates), X)
    rank_correlation, cosine, share = brute_force(kde, X, templates)
    rtol = 1e-9 if dtype == "float64" else 1e-4
    assert result.rank_correlation == pytest.approx(rank_correlation)
    assert_allclose(result.cosine, cosine, rtol=rtol)
    assert_allclose(result.template_share, share, rtol=rtol)


@pytest.mark.parametrize(
    ("kde", "relevance", "p"),
    [
        (KDE(bandwidth=LN2), [8 / 9, 4 / 9], [8 / 9, 1 / 9]),
        (KDE(kernel="student", bandwidth=1, power=1), [50 / 49, 32 / 49], [5 / 7, 2 / 7]),
    ],
)
def test_two_templates_by_hand(kde, relevance, p):
    kde.fit([[1.0, 0.0], [0.0, 2.0]])
    with pytest.warns(UndefinedMetricWarning, match="same score"):
        result = mean_distance_agreement(kde, [[0.0, 0.0]])
    assert np.isnan(result.rank_correlation)
    wide = [0.5, 2.0]  # the squared differences 0 and 1, 0 and 4, averaged
    cosine = np.dot(relevance, wide) / np.linalg.norm(relevance) / np.linalg.norm(wide)
    assert_allclose(result.cosine, [cosine])
    assert_allclose(result.template_share, [p[0] ** -p[0] * p[1] ** -p[1] / 2])


@pytest.mark.parametrize("kernel", ["gaussian", "student"])
@pytest.mark.parametrize("bandwidth", [1e5, np.inf])
def test_is_one_in_the_wide_limit(kernel, bandwidth, rng):
    kde = KDE(kernel=kernel, bandwidth=bandwidth).fit(rng.normal(size=(30, 3)))
    result = mean_distance_agreement(kde, rng.normal(size=(20, 3)) * 2)
    assert result.rank_correlation == pytest.approx(1)
    assert_allclose(result.cosine, 1)
    assert_allclose(result.template_share, 1)


@pytest.mark.parametrize("bandwidth", [1e-2, 1e-9])
def test_nearest_template_can_say_the_opposite_of_the_mean(bandwidth):
    # Squared distances 1, 1/4, 0 to the nearer template, 0, 1/4, 1 to the mean.
    kde = KDE(bandwidth=bandwidth).fit([[-1.0], [1.0]])
    result = mean_distance_agreement(kde, [[0.0], [0.5], [1.0]])
    assert result.rank_correlation == pytest.approx(-1)
    assert_allclose(result.template_share, [1, 0.5, 0.5])


def test_share_is_the_unattributed_part_of_a_gaussian(rng):
    kde = KDE(bandwidth=1.3).fit(rng.normal(size=(50, 6)))
    X = rng.normal(size=(10, 6))
    share = mean_distance_agreement(kde, X).template_share
    assert_allclose(share, np.exp(-kde.unattributed(X) / (2 * 1.3**2)))


def test_kde_becomes_distance_to_the_mean_in_high_dimension(rng):
    # At the same bandwidth, relative to the mean distance (appendix B of the paper).
    def agreement(d):
        kde = KDE(bandwidth=0.1 * np.sqrt(2 * d)).fit(rng.normal(size=(200, d)))
        scale = rng.uniform(0.5, 1.5, size=(100, 1))
        return mean_distance_agreement(kde, scale * rng.normal(size=(100, d)))

    low, high = agreement(5), agreement(20_000)
    assert np.median(low.template_share) < 0.05 < 0.8 < np.median(high.template_share)
    assert low.rank_correlation < 0.9 < 0.999 < high.rank_correlation
    assert low.cosine.mean() < 0.9 < 0.99 < high.cosine.mean()


def test_chunks_images_and_units_change_nothing(rng, monkeypatch):
    templates, X = rng.normal(size=(3000, 6)), rng.normal(size=(200, 6))
    flat = mean_distance_agreement(KDE(bandwidth=0.5).fit(templates), X)
    images = mean_distance_agreement(
        KDE(bandwidth=0.5).fit(templates.reshape(-1, 2, 1, 3)), X.reshape(-1, 2, 1, 3)
    )
    scaled = mean_distance_agreement(KDE(bandwidth=50.0).fit(100 * templates), 100 * X)
    monkeypatch.setattr("skad.metrics._concentration._CHUNK_MIB", 1)
    chunked = mean_distance_agreement(KDE(bandwidth=0.5).fit(templates), X)
    for other in (images, scaled, chunked):
        assert set(other) == {"rank_correlation", "cosine", "template_share"}
        for name, value in other.items():
            assert_allclose(value, flat[name], rtol=1e-9)


def test_keeps_quiet_about_data_frames(rng, recwarn):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(rng.normal(size=(20, 2)), columns=["a", "b"])
    result = mean_distance_agreement(KDE(bandwidth=1.0).fit(frame), frame)
    assert result.cosine.shape == (20,)
    assert not recwarn


def test_refuses_bad_input():
    X = np.eye(4)
    with pytest.raises(TypeError, match="got EllipticEnvelope"):
        mean_distance_agreement(EllipticEnvelope(support_fraction=1.0).fit(X), X)
    with pytest.raises(NotFittedError, match="not fitted"):
        mean_distance_agreement(KDE(), X)
    with pytest.raises(ValueError, match="expecting 4 features"):
        mean_distance_agreement(KDE(bandwidth=1.0).fit(X), X[:, :2])
