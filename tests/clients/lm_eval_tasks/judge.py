"""Loaded by lm-eval: judges the answers by the demo tasks' own checks."""

import hashlib

from adasd.demo.tasks import Example, Task, check


def solved(doc, results):
    """Whether the answer solves the example, and the answer."""
    example = Example(Task(doc["task"]), doc["prompt"], doc["answer"], doc["reference"])
    digest = int.from_bytes(hashlib.blake2b(results[0].encode(), digest_size=4).digest(), "big")
    return {"solved": float(check(example, results[0])), "text_hash": digest}


def together(hashes):
    """One checksum of all texts, in order."""
    return float(sum((place + 1) * value for place, value in enumerate(hashes)) % 2**48)
