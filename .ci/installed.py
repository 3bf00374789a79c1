"""Ask an installed skad what it promises: a light import, and scikit-learn's checks."""

import statistics
import subprocess
import sys
import time
import warnings

_CODE = """
import skad, sys
print('torch' in sys.modules, 'numpy' in sys.modules, skad.__file__)
"""


def seconds(code):
    """Give the median time that a fresh Python takes for some code."""
    times = []
    for _ in range(9):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main():
    """Print it, and fail where a promise is broken; no time is one."""
    command = [sys.executable, "-c", _CODE]
    torch, numpy, where = subprocess.check_output(command, text=True).split(maxsplit=2)
    took = seconds("import skad") - seconds("pass")
    print(
        f"import skad: {took:.3f} s; loaded: torch {torch}, numpy {numpy}; {where}", end=""
    )
    assert torch == numpy == "False" and "site-packages" in where

    from sklearn.utils.estimator_checks import check_estimator

    import skad
    from skad.testing import check_detector

    warnings.simplefilter("ignore")  # of networks that train on a dozen rows
    for name in ("KDE", "AutoEncoder"):
        detector = getattr(skad, name)()
        results = check_estimator(detector, on_fail=None)
        passed = [r["status"] for r in results].count("passed")
        print(f"check_estimator of {name}: {passed} of {len(results)} checks passed")
        assert passed == len(results), [r for r in results if r["status"] != "passed"]
        check_detector(detector)
    skad.show_versions()


if __name__ == "__main__":
    main()
