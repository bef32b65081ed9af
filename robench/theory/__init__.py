"""The theory of Tramèr and Boneh 2019, section 2, in numbers. https://arxiv.org/abs/1904.13000

`features` is the distribution of section 2.2, `linear` has exact risks of linear classifiers, and each theorem has a
module. `python -m robench.theory FOLDER` writes a page with a figure for each.
"""

from .claim3 import linear_risks
from .features import Features
from .theorem1 import attacked, single_risks
from .theorem2 import lower_bound
from .theorem4 import compounded_risks

__all__ = ["Features", "attacked", "compounded_risks", "linear_risks", "lower_bound", "single_risks"]
