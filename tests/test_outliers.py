"""Where anomalies come from: exposure, corpora, uniform entries, functions, confetti."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter
from skorch.dataset import Dataset

from skad import FCDD, HSC, DeepSAD
from skad.images import Confetti, _confetti, confetti
from skad.neural import Augmentation, EarlyStopping, OutlierExposure
from skad.neural._net import BatchLoader, ChangedBatches
from skad.neural._outlier_sources import (
    CalledOutliers,
    RowsOfOutliers,
    UniformEntries,
)
from skad.neural._outliers import ExposedBatches

RNG = np.random.default_rng(0)
IMAGES = RNG.random((12, 9, 9))
TABLE = 5 + 3 * RNG.standard_normal((30, 4))


def seeded(function, *args, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function(*args)


def constant(value, mask=None):
    """A source whose anomalies have one value."""

    def draw(X):
        masks = None if mask is None else mask.expand(len(X), *mask.shape)
        return torch.full_like(X, value), masks

    return draw


# Exposure.


def test_each_row_gives_its_place_with_the_probability():
    X, y = torch.ones(20_000, 3), torch.zeros(20_000)
    for share in (0.5, 0.2):
        rows, targets = seeded(ExposedBatches([constant(7.0)], share=share), X, y)
        replaced = (rows == 7).all(dim=1)
        assert replaced.double().mean().item() == pytest.approx(share, abs=0.015)
        assert_array_equal(targets.label, torch.where(replaced, -1.0, 0.0))
        assert (rows[~replaced] == 1).all()
        assert targets.mask is None


def test_sources_are_equally_likely():
    exposure = ExposedBatches([constant(float(i)) for i in range(4)])
    rows, targets = seeded(exposure, torch.full((20_000, 1), -1.0), None)
    for i in range(4):
        assert (rows == i).double().mean().item() == pytest.approx(1 / 8, abs=0.01)
    assert_array_equal(targets.label, torch.where(rows[:, 0] >= 0, -1.0, 0.0))


def test_masks_are_those_of_the_source_or_whole():
    part = torch.zeros(1, 4, 5, dtype=torch.bool)
    part[0, 1] = True
    exposure = ExposedBatches([constant(1.0, part), constant(2.0)], with_masks=True)
    y = torch.arange(200) % 2.0
    rows, (label, mask) = seeded(exposure, torch.zeros(200, 3, 4, 5), y)
    for value, expected in ((0, part & False), (1, part), (2, part | True)):
        chosen = rows[:, 0, 0, 0] == value
        assert (mask[chosen] == expected).all()
    assert_array_equal(label, torch.where(rows[:, 0, 0, 0] > 0, -1.0, y))


def test_the_data_set_is_not_written_to():
    X, y = torch.rand(16, 3), torch.zeros(16)
    before = X.clone()
    exposure = ExposedBatches([constant(9.0)])
    ((batch, labels),) = BatchLoader(Dataset(X, y))
    rows, _ = seeded(exposure, batch, labels)
    assert (rows == 9).any()
    seeded(exposure, X, y)
    assert torch.equal(X, before)
    assert not y.any()


def test_one_seed_gives_one_draw():
    low, high = torch.zeros(3), torch.ones(3)
    corpus = RowsOfOutliers(torch.rand(50, 3))
    exposure = ExposedBatches([corpus, UniformEntries(low, high)])
    X = torch.rand(40, 3)
    first, second, other = (seeded(exposure, X, None, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_held_out_batches_are_the_same_in_every_epoch():
    change = ExposedBatches([constant(3.0)])
    batches = [(torch.zeros(40, 2), torch.zeros(40)) for _ in range(2)]
    loader = ChangedBatches(batches, change, "cpu", fixed=True)
    before = torch.get_rng_state()
    first, second = ([X for X, _ in loader] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, second))
    assert not torch.equal(*first)  # but not the same in every batch
    stopping = HSC(
        early_stopping=EarlyStopping(), lr=1e-12, max_epochs=4, random_state=0
    ).fit(TABLE)
    assert len(set(stopping.history_["valid_loss"])) == 1
    assert len(set(stopping.history_["train_loss"])) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_the_share_of_a_detector():
    seen = []

    def augment(X, mask):
        seen.append(X)
        return X, mask

    fit = {"augment": augment, "max_epochs": 60, "random_state": 0}
    for share in (0.5, 0.2):
        far = OutlierExposure(lambda X, rng: X + 1e3, share=share)
        seen.clear()
        assert DeepSAD(outliers=far, **fit).fit(TABLE).outliers_ == ("callable",)
        replaced = torch.cat(seen)[:, 0] > 100
        assert replaced.double().mean().item() == pytest.approx(share, abs=0.05)
    with pytest.raises(ValueError, match="'share' parameter of OutlierExposure"):
        HSC(outliers=OutlierExposure(share=1.0)).fit(TABLE)


# Sources.


def test_rows_of_a_corpus_come_with_their_masks():
    rows = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 3, 3)
    masks = torch.arange(6).view(6, 1, 1, 1).expand(6, 1, 3, 3) % 2 == 0
    drawn, marked = seeded(RowsOfOutliers(rows, masks), torch.zeros(6000, 2, 3, 3))
    which = drawn[:, 0, 0, 0].long()
    assert torch.equal(drawn, rows[which])
    assert torch.equal(marked, masks[which])
    assert_allclose(which.bincount() / 6000, 1 / 6, atol=0.02)
    assert RowsOfOutliers(rows)(torch.zeros(2, 2, 3, 3))[1] is None


@pytest.mark.parametrize("shape", [(8,), (1, 4, 5), (3, 4, 5), (1,)])
def test_uniform_entries(shape):
    low = torch.linspace(-1, 1, int(np.prod(shape))).view(shape)
    high = low + 2
    X = (low + high).expand(2000, *shape) / 2
    drawn, mask = seeded(UniformEntries(low, high, share=0.25), X)
    changed = drawn != X
    assert (drawn >= low - 1).all() and (drawn <= high + 1).all()
    assert drawn.min() < low.min() - 0.5 and drawn.max() > high.max() + 0.5
    assert changed.flatten(1).any(dim=1).all()
    n = low.numel()  # each with probability 1/4, one at least
    assert changed.double().mean().item() == pytest.approx(0.25 + 0.75**n / n, abs=0.02)
    if len(shape) == 1:
        assert mask is None
    else:
        assert torch.equal(mask, changed.any(dim=1, keepdim=True))


def test_uniform_entries_of_a_fit_go_half_a_range_beyond_the_rows():
    seen = []

    def augment(X, mask):
        seen.append(X)
        return X, mask

    HSC(outliers="uniform", augment=augment, max_epochs=2, random_state=0).fit(TABLE)
    seen = torch.cat(seen).double().numpy()
    scaled = (TABLE - TABLE.mean(axis=0)) / TABLE.std(axis=0)
    low, high = scaled.min(axis=0), scaled.max(axis=0)
    reach = (high - low) / 2 + 1e-5
    assert (seen >= low - reach).all() and (seen <= high + reach).all()
    assert (seen < low - 0.1).any() and (seen > high + 0.1).any()


@pytest.mark.parametrize(
    ("X", "shape"),
    [
        (TABLE, (4,)),
        (IMAGES, (9, 9)),
        ((255 * IMAGES).astype(np.uint8), (9, 9)),
        (7 - 20 * IMAGES[:, None].repeat(3, axis=1), (3, 9, 9)),
        (1e9 + IMAGES, (9, 9)),
    ],
)
@pytest.mark.parametrize("detector", [HSC, FCDD, DeepSAD])
def test_a_function_sees_rows_as_they_came(detector, X, shape):
    seen = []

    def function(rows, rng):
        assert isinstance(rng, np.random.Generator)
        seen.append(rows.copy())
        rows[:] = rows[::-1]  # its own, to write to
        return rows.astype(np.float32)

    before = X.copy()
    detector(outliers=function, max_epochs=1, random_state=0).fit(X)
    assert_array_equal(X, before)
    unit = X.std(axis=0).max()
    for rows in seen:
        assert rows.shape[1:] == shape
        for row in rows:
            assert abs(X - row).reshape(len(X), -1).max(axis=1).min() < 1e-5 * unit


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda X, rng: X[1:], r"rows of shape \(2, 9, 9\).* gave shape \(1, 9, 9\)"),
        (lambda X, rng: X[:, 1:], r"gave shape \(2, 8, 9\)"),
        (lambda X, rng: X + np.inf, r"must give finite rows .* gave NaN or inf"),
        (lambda X, rng: None, r"must give finite rows of shape \(2, 9, 9\)"),
        (lambda X, rng: (X, X > 0, 1), "a pair of rows and masks; it gave a tuple of 3"),
        (lambda X, rng: (X, X[:1] > 0), r"masks of shape \(1, 9, 9\) for rows"),
        (lambda X, rng: (X, True), r"masks of shape \(\) for rows"),
        (lambda X, rng: np.full(X.shape, "a"), "could not convert string"),
    ],
)
def test_what_a_function_must_give(function, message):
    for detector in (FCDD, HSC):
        with pytest.raises(ValueError, match=message):
            detector(outliers=function).fit(IMAGES)


def test_masks_of_a_function():
    X = torch.zeros(2, 3, 4, 5)
    by_channel = np.zeros((2, 3, 4, 5))
    by_channel[0, 1, 2, 3] = 0.1
    for mask in (by_channel, by_channel[:, 1], by_channel[:, 1].reshape(2, 20)):
        source = CalledOutliers(
            lambda rows, rng, mask=mask: (rows, mask),
            lambda rows: torch.from_numpy(rows).float(),
            lambda rows: rows.double().numpy(),
        )
        _, marked = source(X)
        assert marked.shape == (2, 1, 4, 5)
        assert marked.nonzero().tolist() == [[0, 0, 2, 3]]


# Confetti.


@pytest.mark.parametrize("shape", [(5, 20, 30), (5, 1, 20, 30), (5, 3, 20, 30)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_confetti_marks_what_it_changes(shape, dtype):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    if dtype is not np.uint8:
        images = (images / 255).astype(dtype)
    before, states = images.copy(), (np.random.get_state()[1], torch.get_rng_state())
    drawn, mask = confetti(images, random_state=1)
    assert_array_equal(images, before)
    assert (drawn.dtype, drawn.shape) == (dtype, shape)
    assert (mask.dtype, mask.shape) == (bool, (5, 20, 30))
    change = abs(drawn.astype(float) - images).reshape(5, -1, 20, 30).max(axis=1)
    assert_array_equal(mask, change > (25.5 if dtype is np.uint8 else 0.1))
    assert mask.any(axis=(1, 2)).all()
    assert drawn.min() >= 0 and drawn.max() <= (255 if dtype is np.uint8 else 1)
    assert (drawn == images).mean() > 0.3  # to the bit
    again, marked = confetti(images, random_state=1)
    assert_array_equal(again, drawn)
    assert_array_equal(marked, mask)
    assert (confetti(images, random_state=2)[0] != drawn).any()
    assert_array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])


def test_colours_and_black():
    grey = np.full((50, 3, 24, 24), 0.9)
    drawn, mask = confetti(
        grey, black=0, coloured=1e-9, strength=(0.3, 0.8), random_state=0
    )
    taken = (0.9 - drawn)[:, :, mask.any(axis=0)]
    assert taken.max() <= 0.8 + 1e-6
    spread = np.ptp(0.9 - drawn, axis=1).max(axis=(1, 2))
    assert np.mean(spread > 0.05) > 0.8  # channels lose unlike amounts
    drawn, mask = confetti(grey, coloured=0, random_state=0)
    assert np.ptp(drawn, axis=1).max() == 0
    assert drawn.min() < 0.01


def test_confetti_darkens_but_on_black():
    for value, sign in ((0.0, 1), (0.01, 1), (0.5, -1), (1.0, -1)):
        images = np.full((8, 1, 16, 16), value)
        drawn, mask = confetti(images, random_state=0)
        assert mask.any(axis=(1, 2)).all()
        assert (np.sign(drawn - images)[:, 0][mask] == sign).all()


@pytest.mark.parametrize("kind", ["coloured", "black"])
@pytest.mark.parametrize("mean", [0.3, 2.0])
def test_how_many_blobs_there_are(kind, mean):
    parameters = {"coloured": 0, "black": 0, "strength": (1.0, 1.0), kind: mean}
    sizes = {"side": (0.03, 0.03), "aspect": (1.0, 1.0), "blur": 0.004}
    images = np.ones((300, 100, 100), dtype=np.float32)
    drawn, _ = confetti(images, random_state=0, **parameters, **sizes)
    # One of 3 x 3 pixels takes the sum of 9, but for what is over the border.
    n_blobs = (1 - drawn).sum(axis=(1, 2)) / 9
    assert n_blobs.mean() == pytest.approx(mean + np.exp(-mean), rel=0.06)
    assert n_blobs.min() > 0.2


@pytest.mark.parametrize("angle", [0.0, 30.0, -70.0])
@pytest.mark.parametrize("size", [(40, 56), (56, 40)])
def test_a_blob_is_a_blurred_rectangle(monkeypatch, angle, size):
    side, aspect, blur, fine = 12.0, 2.5, 1.7, 8
    height, width = size
    place = torch.tensor([0.3, 0.6, (angle / 90 + 1) / 2, 0.45, 0.52]).view(5, 1, 1, 1)
    monkeypatch.setattr(
        _confetti,
        "_uniform",
        lambda like, shape, generator: place if shape[0] == 5 else torch.zeros(shape),
    )
    settings = Confetti(
        coloured=0,
        black=1e-9,
        side=(side / 40, side / 40),
        aspect=(aspect, aspect),
        blur=blur / 40,
        angle=90.0,
    )
    drawn, _ = settings.draw(torch.ones(1, 1, height, width))
    y, x = (np.mgrid[: height * fine, : width * fine] + 0.5) / fine
    dy, dx = y - 0.45 * height, x - 0.52 * width
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    along, across = abs(cos * dx + sin * dy), abs(cos * dy - sin * dx)
    inside = (along < side / 2 * aspect**0.5) & (across < side / 2 / aspect**0.5)
    blurred = gaussian_filter(inside.astype(float), blur * fine)
    cells = blurred.reshape(height, fine, width, fine)[:, 3:5, :, 3:5].mean(axis=(1, 3))
    assert_allclose(1 - drawn[0, 0].numpy(), cells, atol=0.02)


def test_sizes_of_blobs_are_within_their_range():
    like, generator = torch.zeros(1, 1, 60, 80), torch.Generator().manual_seed(0)
    settings = Confetti(side=(0.1, 0.2), aspect=(1.0, 1.0), blur=0.0)
    blobs = settings._shapes(like, 200, generator)
    area = blobs.sum(dim=(1, 2))  # those over the border have less
    assert area.max().item() == pytest.approx(12**2, rel=0.1)
    whole = area[
        (blobs[:, 0] + blobs[:, -1]).sum(1) + blobs[:, :, [0, -1]].sum((1, 2)) == 0
    ]
    assert whole.min().item() == pytest.approx(6**2, rel=0.15)
    assert blobs.min() >= -1e-6 and blobs.max() <= 1 + 1e-6


def test_many_blobs_go_in_parts(monkeypatch):
    images = np.ones((6, 12, 12), dtype=np.float32)
    monkeypatch.setattr(_confetti, "_BLOB_ENTRIES", 1)
    drawn, mask = confetti(images, coloured=3, random_state=0)
    assert mask.any(axis=(1, 2)).all() and np.isfinite(drawn).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 5), (7, 1)])
def test_confetti_on_tiny_images(size):
    drawn, mask = confetti(np.ones((20, *size)), random_state=0)
    assert np.isfinite(drawn).all() and drawn.min() >= 0
    assert mask.any()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"side": (0.5, 0.1)}, r"side must be two finite numbers > 0.*got \(0.5, 0.1\)"),
        ({"side": (0.0, 0.1)}, "side must be two finite numbers > 0"),
        ({"side": 0.1}, "side must be two .* got 0.1"),
        ({"aspect": (-1.0, 2.0)}, "aspect must be two finite numbers > 0"),
        ({"aspect": (1.0, np.inf)}, "aspect must be two finite"),
        ({"strength": (-0.5, 1.0)}, "strength must be two finite numbers >= 0"),
        ({"coloured": -1}, "coloured must be a number from 0 on, got -1"),
        ({"black": "some"}, "black must be a number from 0 on, got 'some'"),
        ({"blur": np.nan}, "blur must be a number from 0 on, got nan"),
        ({"threshold": -0.1}, "threshold must be a number"),
        ({"coloured": 0, "black": 0}, "nothing to draw"),
    ],
)
def test_bad_confetti(parameters, message):
    with pytest.raises(ValueError, match=message):
        confetti(IMAGES, **parameters)
    detector = FCDD(outliers=Confetti(**parameters))  # the constructor takes anything
    with pytest.raises(ValueError, match=message):
        detector.fit(IMAGES)


def test_an_unknown_parameter_of_confetti():
    with pytest.raises(TypeError, match="colour"):
        confetti(IMAGES, colour=1)
    with pytest.raises(ValueError, match="finite and in"):
        confetti(IMAGES + 1)


# Augmentation.


def test_a_shift_moves_image_and_mask_and_brings_zeros_in():
    X = torch.zeros(500, 2, 5, 7)
    X[:, 0, 2, 3], X[:, 1, 2, 3] = 1, 2
    mask = X[:, :1] > 0
    moved, marked = seeded(Augmentation(shift=2), X, mask)
    assert torch.equal(marked, moved[:, :1] == 1)
    assert torch.equal(moved[:, 1], 2 * moved[:, 0])
    assert marked.flatten(1).sum(dim=1).eq(1).all()
    places = {tuple(place) for place in marked.nonzero()[:, 2:].tolist()}
    assert places == {(y, x) for y in range(5) for x in range(1, 6)}
    full, marked = seeded(Augmentation(shift=3), torch.ones(500, 1, 5, 7), None)
    assert marked is None
    assert set(full.flatten(1).sum(dim=1).tolist()) == {
        float(h * w) for h in (5, 4, 3, 2) for w in (7, 6, 5, 4)
    }


def test_every_second_image_is_mirrored():
    X = torch.rand(400, 1, 3, 4)
    mask = X > 0.5
    turned, marked = seeded(Augmentation(mirror=True), X, mask)
    assert torch.equal(marked, turned > 0.5)
    same = (turned == X).flatten(1).all(dim=1)
    assert torch.equal(turned[~same], X[~same].flip(3))
    assert same.double().mean().item() == pytest.approx(0.5, abs=0.1)


def test_brightness_and_noise_leave_the_mask():
    X, mask = torch.ones(1000, 1, 4, 4), torch.ones(1000, 1, 4, 4) > 0
    bright, marked = seeded(Augmentation(brightness=0.2), X, mask)
    factor = bright.flatten(1)
    assert (factor == factor[:, :1]).all()
    assert (factor.min(), factor.max()) == pytest.approx((0.8, 1.2), abs=0.01)
    assert torch.equal(marked, mask)
    rough, _ = seeded(Augmentation(noise=0.1), X, mask)
    hit = (rough != X).flatten(1).any(dim=1)
    assert hit.double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (rough[hit] - 1).std().item() == pytest.approx(0.1, rel=0.05)


def test_nothing_is_augmented_by_default():
    X = torch.rand(3, 1, 4, 4)
    assert Augmentation()(X) == (X, None)
    with pytest.raises(ValueError, match=r"changes images, .* shape \(8, 4\)"):
        HSC(augment=Augmentation(mirror=True)).fit(TABLE)
    with pytest.raises(ValueError, match=r"must give a pair, .* gave a Tensor"):
        HSC(augment=lambda X, mask: X).fit(TABLE)
    detector = FCDD(augment=Augmentation(shift=1, mirror=True, brightness=0.1, noise=0.1))
    fitted = detector.set_params(max_epochs=1, random_state=0).fit(IMAGES)
    assert np.isfinite(fitted.score_samples(IMAGES)).all()
