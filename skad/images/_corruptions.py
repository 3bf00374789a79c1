"""The corruptions of MNIST-C (Mu & Gilmer 2019) for grey images of any size.

Each function takes float images in [0, 1] of shape ``(n, H, W)`` and a ``RandomState``,
and returns new images, which the caller clips to [0, 1]. The parameters are those of
the published set, whose images are 28 x 28; on other sizes lengths scale with the
shorter side.
"""

import itertools

import numpy as np
from scipy import ndimage


def _pixels(images, mnist_pixels):
    """Return how many pixels of ``images`` so many pixels of a 28 x 28 image are."""
    return mnist_pixels * min(images.shape[1:]) / 28


def _whole_pixels(images, mnist_pixels):
    return max(1, round(_pixels(images, mnist_pixels)))


def _blur(images, sigma):
    return ndimage.gaussian_filter(images, (0, sigma, sigma), mode="nearest")


def _signs(rng, n):
    return rng.choice([-1, 1], size=n)


def shot_noise(images, rng):
    """Draw Poisson counts: Poisson(3 x) / 3."""
    return rng.poisson(images * 3) / 3


def impulse_noise(images, rng):
    """Set a share .17 of the pixels to black or white."""
    hit = rng.random_sample(images.shape) < 0.17
    return np.where(hit, rng.randint(2, size=images.shape), images)


def glass_blur(images, rng):
    """Blur (sigma .7), swap pixels with neighbours (distance 1, 2 passes), blur."""
    # The published set blurred 2-D arrays with multichannel=True, which takes the
    # columns for channels: its images are blurred down the rows only.
    sigma = (0, _pixels(images, 0.7), 0)
    out = ndimage.gaussian_filter(images, sigma, mode="nearest")
    for _ in range(2):
        _swap_neighbours(out, _whole_pixels(images, 1), rng)
    return ndimage.gaussian_filter(out, sigma, mode="nearest")


def _swap_neighbours(images, distance, rng):
    """Swap, in place, half of the pixels with one up to ``distance`` up and left."""
    n, height, width = images.shape
    each = np.arange(n)
    for row in range(height - distance, distance, -1):
        for column in range(width - distance, distance, -1):
            swap = rng.randint(2, size=n)
            dy, dx = swap * rng.randint(-distance, distance, size=(2, n))
            here = images[:, row, column].copy()
            images[:, row, column] = images[each, row + dy, column + dx]
            images[each, row + dy, column + dx] = here


def motion_blur(images, rng):
    """Smear along an angle U(-45, 45) degrees, radius 10, sigma 3."""
    # ImageMagick's MotionBlur: a one-sided kernel, 2 radius + 1 taps on whole pixels.
    n, height, width = images.shape
    taps = np.arange(2 * int(np.ceil(_pixels(images, 10))) + 1)
    weights = np.exp(-0.5 * (taps / _pixels(images, 3)) ** 2)
    angles = np.deg2rad(rng.uniform(-45, 45, size=(n, 1, 1)))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    each, out = np.arange(n)[:, None, None], np.zeros_like(images)
    for tap, weight in zip(taps, weights / weights.sum(), strict=True):
        y = rows + np.ceil(tap * np.sin(angles) - 0.5).astype(int)
        x = columns + np.ceil(tap * np.cos(angles) - 0.5).astype(int)
        out += weight * images[each, y.clip(0, height - 1), x.clip(0, width - 1)]
    return out


def _warp(images, matrices):
    """Map output to input positions ``(row, column)`` about the centre; 0 outside."""
    centre = (np.array(images.shape[1:]) - 1) / 2
    out = np.empty_like(images)
    for image, matrix, result in zip(images, matrices, out, strict=True):
        offset = centre - matrix @ centre
        ndimage.affine_transform(image, matrix, offset, output=result, order=1)
    return out


def shear(images, rng):
    """Shear by .4 radian to a random side."""
    # The matrix of scikit-image at the time, which keeps the length of slanted lines.
    sin, cos = np.sin(0.4), np.cos(0.4)
    signs = _signs(rng, len(images))
    return _warp(images, [np.array([[cos, 0], [-s * sin, 1]]) for s in signs])


def scale(images, rng):
    """Shrink the content to .7 of its size."""
    return _warp(images, [np.eye(2) / 0.7] * len(images))


def rotate(images, rng):
    """Rotate by .4 radian to a random side."""
    sin, cos = np.sin(0.4), np.cos(0.4)
    signs = _signs(rng, len(images))
    return _warp(images, [np.array([[cos, s * sin], [-s * sin, cos]]) for s in signs])


def brightness(images, rng):
    """Add .5 to the value."""
    return images + 0.5


def translate(images, rng):
    """Shift by 3 pixels in each direction, with random signs."""
    n, height, width = images.shape
    shift = _whole_pixels(images, 3)
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
    rows = shift * (1 + _signs(rng, n)[:, None, None]) + np.arange(height)[:, None]
    columns = shift * (1 + _signs(rng, n)[:, None, None]) + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows, columns]


def stripe(images, rng):
    """Invert the outer quarters: columns 0-6 and 21-27."""
    width = images.shape[2]
    quarter = max(1, round(width / 4))
    columns = np.arange(width)
    outer = (columns < quarter) | (columns >= width - quarter)
    return np.where(outer, 1 - images, images)


def fog(images, rng):
    """Add a plasma fractal (strength 3, decay 1.4), then rescale by max/(max + 3)."""
    clouds = _clouds(*images.shape, rng)
    top = images.max(axis=(1, 2), keepdims=True)
    return (images + 3 * clouds) * top / (top + 3)


def _clouds(n, height, width, rng):
    """Draw the corners of diamond-square maps about 9 times as wide as the images."""
    # The published set draws 256 x 256 maps, scales them to [0, 1], keeps 28 x 28.
    # After 5 levels only details are missing, so the rest is drawn for 8 of the 32
    # cells: 3.5 for the image, and 2 a side as the edges of a crop are no neighbours.
    grid, wibble = _refine(np.zeros((n, 1, 1)), 1.0, 5, rng)
    grid -= grid.min(axis=(1, 2), keepdims=True)
    top = grid.max(axis=(1, 2), keepdims=True)
    crop = np.roll(grid / top, 2, axis=(1, 2))[:, :8, :8]
    levels = int(np.ceil(np.log2(max(height, width, 4) / 3.5)))
    fine, _ = _refine(crop, wibble / top, levels, rng)
    start = 2 * 2**levels
    return fine[:, start : start + height, start : start + width]


def _refine(grid, wibble, levels, rng):
    for _ in range(levels):
        grid = _diamond_square(grid, wibble, rng)
        # The reference multiplies by its wibble twice: jitter decays by the square.
        wibble = wibble / 1.4**2
    return grid, wibble


def _diamond_square(corner, wibble, rng):
    """Double a periodic grid: means of four neighbours plus U(-wibble, wibble)."""

    def jittered(a, b):
        return (a + b) / 4 + wibble * rng.uniform(-1, 1, corner.shape)

    n, size, _ = corner.shape
    out = np.empty((n, 2 * size, 2 * size))
    below, right = (corner + np.roll(corner, -1, axis=axis) for axis in (1, 2))
    centre = jittered(right, np.roll(right, -1, axis=1))
    out[:, ::2, ::2], out[:, 1::2, 1::2] = corner, centre
    out[:, ::2, 1::2] = jittered(right, centre + np.roll(centre, 1, axis=1))
    out[:, 1::2, ::2] = jittered(below, centre + np.roll(centre, 1, axis=2))
    return out


def spatter(images, rng):
    """Cover with blots of 63/255: N(.65, .3), blur 1, cut .65, blur 1.5, cut .8."""
    liquid = _blur(rng.normal(0.65, 0.3, images.shape), _pixels(images, 1))
    cover = _blur((liquid > 0.65).astype(float), _pixels(images, 1.5))
    cover[cover < 0.8] = 0
    return images * (1 - cover) + cover * 63 / 255


def _add_line(images, start, end, on=True):
    """Add a line of profile log(1 - d / 2.3) + 1, d rows off, between (x, y) points."""
    # Below one pixel a line that runs between two rows would vanish.
    reach = max(_pixels(images, 2.3), 1.0)
    (x0, y0), (x1, y1) = np.reshape(start, (2, -1, 1)), np.reshape(end, (2, -1, 1))
    columns = np.arange(images.shape[2])
    heights = y0 + (y1 - y0) / (x1 - x0) * (columns - x0)
    distance = np.abs(np.arange(images.shape[1])[:, None] - heights[:, None, :])
    profile = np.log1p(-np.minimum(distance / reach, 0.9)) + 1
    on = on & (columns >= np.floor(x0)) & (columns < np.ceil(x1))
    return images + profile.clip(min=0) * on[:, None, :]


def dotted_line(images, rng):
    """Add a line from column 0 to 27 between random rows; 2 of 4 columns are kept."""
    n, height, width = images.shape
    start, end = rng.randint(max(height - 1, 1), size=(2, n))
    on = np.arange(width) // _whole_pixels(images, 2) % 2 == 1
    left, right = np.zeros(n), np.full(n, max(width - 1, 1))
    return _add_line(images, (left, start), (right, end), on)


def zigzag(images, rng):
    """Add a zigzag (a = b = 2) from column 2 to 25, ends at most 5 rows apart."""
    n, height, width = images.shape
    margin = _pixels(images, 2)
    step = max(margin, 1.0)
    start = rng.randint(max(height - 1, 1), size=n)
    rise = _pixels(images, rng.randint(-5, 5, size=n))
    x, y = _zigzag_corners(max(width - 1 - 2 * margin, step), rise, step)
    corners = np.stack([x + margin, y + start], axis=1)
    for here, there in itertools.pairwise(corners):
        images = _add_line(images, here, there)
    return images


def _zigzag_corners(run, rise, step):
    """Return the ``x`` and ``y``, (corners, n), of zigzags about slanted lines."""
    # A last peak too near the end would make the zigzag turn back.
    peaks = np.arange(step, run - step / 3, 2 * step)
    across = np.array([0, *(step * (-1.0) ** np.arange(len(peaks))), 0])[:, None]
    length = np.hypot(run, rise)
    zero = np.zeros_like(length)
    along = np.array([zero, *(zero + peak for peak in peaks), length])
    cos, sin = run / length, rise / length
    return along * cos - across * sin, along * sin + across * cos


def canny_edges(images, rng):
    """Replace the image by its Canny edges, sigma 1."""
    from skimage.feature import canny

    sigma = _pixels(images, 1)
    return np.array([canny(image, sigma=sigma) for image in images], dtype=float)


def missing_stroke(images, rng):
    """Erase a disk of radius 4 centred on a random ink pixel (not in MNIST-C)."""
    n, height, width = images.shape
    # Ink: at least half of the image's maximum, so the change is a visible one.
    ink = images >= images.max(axis=(1, 2), keepdims=True) / 2
    draw = ((1 - rng.random_sample(images.shape)) * ink).reshape(n, -1)
    y, x = np.unravel_index(draw.argmax(axis=1), (height, width))
    dy = np.arange(height)[:, None] - y[:, None, None]
    dx = np.arange(width) - x[:, None, None]
    return np.where(dy**2 + dx**2 <= _pixels(images, 4) ** 2, 0, images)


MNIST_C_FUNCTIONS = {
    function.__name__: function
    for function in (
        shot_noise,
        impulse_noise,
        glass_blur,
        motion_blur,
        shear,
        scale,
        rotate,
        brightness,
        translate,
        stripe,
        fog,
        spatter,
        dotted_line,
        zigzag,
        canny_edges,
    )
}
FUNCTIONS = {**MNIST_C_FUNCTIONS, "missing_stroke": missing_stroke}
