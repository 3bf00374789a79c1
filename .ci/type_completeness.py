"""Judge the report of ``pyright --verifytypes skad --ignoreexternal --outputjson``.

pyright calls a class unknown where a base class is, and scikit-learn has no types: all
detectors are, whatever their own signatures. So classes are left out here; their methods
and attributes, and all functions, must be known.
"""

import json
import sys
from pathlib import Path

LEAST = 0.99

report = json.loads(Path(sys.argv[1]).read_text())["typeCompleteness"]
print(f"pyright's own score, with the classes: {report['completenessScore']:.1%}")
symbols = [symbol for symbol in report["symbols"] if symbol["category"] != "class"]
unknown = [s for s in symbols if not s["isTypeKnown"] or s["isTypeAmbiguous"]]
for symbol in unknown:
    print(symbol["name"], *(found["message"] for found in symbol["diagnostics"]))
share = 1 - len(unknown) / max(len(symbols), 1)
print(f"Functions, methods and attributes: {share:.1%} of {len(symbols)} are known.")
sys.exit(len(symbols) < 500 or share < LEAST)
