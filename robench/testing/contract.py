"""`check_attack` checks an attack of the user's own against the contract of robench's attacks."""

from ..doctor.checks import USUAL
from ..doctor.contract import breaches
from ..errors import UserError
from ..problem import threats
from ..problem.process import plain_process
from ..search import own_attack
from ..search.attack import AttackGiven

__all__ = ["check_attack"]


@plain_process()
def check_attack(attack: AttackGiven, threat: str | None = None) -> None:
    """Raises AssertionError, with one line per breach, if an attack breaks the contract of robench's attacks.

    `attack` is an instance, a class, or text such as `file.py:Class(steps=5)`, which runs the code of the file.
    `threat` is a threat model such as linf:0.1; without it, every one that the attack declares, with a small radius.
    The attack searches nine images of a linear model with four classes. Its result for an image must not depend on the
    other rows of the batch, their order or number, or on global random numbers. It must stay within `max_queries`, read
    only what its base class declares, leave its arguments unchanged, and query images inside the threat set. It need
    not find anything.

        def test_my_attack_keeps_the_contract():
            check_attack(MyAttack(steps=10), threat="linf:0.1")

    Raises UserError, a ValueError, for a value that is no attack, and for a threat model that it does not attack.
    """
    made, label, _ = own_attack.from_user(attack, local=True)
    texts = [USUAL[name] for name in made.threats] if threat is None else [threat]
    faults = []
    for text in texts:
        under = threats.parse(text)
        if under.name not in made.threats:
            raise UserError(f"{label} does not attack {under.name}; it attacks {', '.join(made.threats)}")
        own_attack.refuse_unfit(made, under)
        faults += [f"{label} under {under}: {fault}" for fault in breaches(made, under)]
    if faults:
        raise AssertionError("\n".join(faults))
