"""Shards: a run that searches a part of the examples, and merges with the others into the run of all.

Whatever concerns the data set as a whole is decided from the whole, in every shard alike: the clean pass, cautions, the
precision, and whether an attack breaks any of its sample. Only searches are divided. So the plan of a shard names all
examples, and those of other shards are open in its run file.
"""

import re

import msgspec

from ..errors import UserError
from ..evidence.records import MAX_EXAMPLES, Plan, Shard
from ..results.merging import joint_shards, searched_places
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
    if not plan.shards:
        return None
    own = frozenset(plan.examples[place] for place in searched_places(plan))
    sampling = [] if plan.every_attack else [attack for threat in plan.threats for attack in threat.attacks]
    samples = [sample(plan.examples, attack) for attack in sampling if attack.sample is not None]
    return own if part == "near" else own.union(*samples)
