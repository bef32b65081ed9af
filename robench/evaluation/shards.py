"""Shards: a run that searches a part of the examples, and merges with the others into the run of all.

Whatever concerns the data set as a whole is decided from the whole, in every shard alike: the clean pass, cautions, the
precision, and whether an attack breaks any of its sample. Only searches are divided. So the plan of a shard names all
examples, and those of other shards are open in its run file.
"""

import re
from itertools import compress

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..evidence.records import MAX_EXAMPLES, Plan, Shard
from ..results.merging import joint_shards
from .rounds import Part, sample

_SHARD = re.compile(r"([0-9]{1,7})/([0-9]{1,7})")


def parse(text: str) -> Shard:
    """The shard of a text like 3/8. Raises UserError for another text."""
    found = _SHARD.fullmatch(text)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count <= MAX_EXAMPLES:
        raise UserError(f"--shard {text} cannot be read; write the third of eight shards as 3/8")
    return Shard(index, count)


def sharded(plan: Plan, shard: Shard | None) -> Plan:
    """The plan that searches this shard; all examples without one. Raises UserError if the shard holds no example."""
    if shard is None:
        return plan
    if not shard.places(len(plan.examples)):
        raise UserError(f"--shard {shard} holds none of the {len(plan.examples)} examples; name fewer shards")
    return msgspec.structs.replace(plan, shards=joint_shards([shard], len(plan.examples)))


def searched(plan: Plan, part: Part) -> frozenset[int] | None:
    """The numbers of the examples that a plan searches in this part of its rounds; None for all of them.

    A shard searches the samples of the whole as well as its own examples, until all samples are over: whether an attack
    breaks one of its sample decides about the examples of every shard.
    """
    mask = searched_mask(plan, part)
    return None if mask is None else frozenset(compress(plan.examples, mask))


def searched_mask(plan: Plan, part: Part) -> NDArray[np.bool_] | None:
    """Whether each planned example is among those."""
    if not plan.shards:
        return None
    own = np.zeros(len(plan.examples), bool)
    for shard in plan.shards:
        own[shard.index - 1 :: shard.count] = True
    if part != "near" and not plan.every_attack:
        attacks = [attack for threat in plan.threats for attack in threat.attacks if attack.sample is not None]
        samples = frozenset[int]().union(*(sample(plan.examples, attack) for attack in attacks))
        numbers = np.fromiter(plan.examples, np.int32, len(plan.examples))
        own |= np.isin(numbers, np.fromiter(samples, np.int32, len(samples)))
    return own
