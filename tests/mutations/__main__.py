"""`python -m tests.mutations [KIND [NUMBER...]]`: runs mutated inputs, and prints the faults and counts."""

import sys
import tempfile
from collections import Counter
from pathlib import Path

from .kinds import KINDS
from .running import run


def main() -> int:
    """Exit code 1 if any input had a fault."""
    kinds, numbers = sys.argv[1:2] or [*KINDS], [int(number) for number in sys.argv[2:]]
    faulty = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            codes: Counter[str] = Counter()
            slowest = 0.0
            for result in run(Path(folder), [(kind, n) for n in numbers or range(KINDS[kind][1])]):
                codes[str(result["code"]) if result["code"] in (0, 1, 2, 3, 130) else "other"] += 1
                slowest = max(slowest, float(result["seconds"]))
                faulty += bool(result["faults"])
                if result["faults"] or len(numbers):
                    print(f"{kind} {result['number']}: {result['faults']} {str(result['words'])[:300]}")
                    print("   ", str(result["message"])[-1500:].strip(), flush=True)
            print(f"{kind}: {dict(codes)}, slowest {slowest} s", flush=True)
    print(f"{faulty} inputs with faults")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
