"""Two pairs by hand, on which losses of papers and of other libraries were computed."""

from typing import Any

# Sums -3.0, -3.5, -6.0, -5.5 and -1.6, -1.7, -1.2, -2.0: the log-ratios are 0.5 and -0.5, and 0.1 and 0.8.
PAIRS: dict[str, Any] = {
    "chosen": [[-0.2, -0.9, -1.4, -0.5], [-1.0, -0.6]],
    "rejected": [[-0.7, -1.2, -0.4, -2.0, -0.6, -1.1], [-0.5, -0.4, -0.3]],
    "ref_chosen": [[-0.5, -1.0, -1.1, -0.9], [-0.8, -0.9]],
    "ref_rejected": [[-0.6, -1.0, -0.9, -1.5, -0.5, -1.0], [-0.9, -0.6, -0.5]],
}
POLICY = {name: PAIRS[name] for name in ("chosen", "rejected")}
