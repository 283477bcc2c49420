"""Ten minutes on a card, in one process.

    python -m load_tests.cuda [--folder FOLDER] [--rehearse] [--only SECTION ...]

Each section is guarded: one that fails says why, and the next one runs. Records are JSON lines, written as they come,
to ``FOLDER/cuda-CARD.jsonl`` (FOLDER: also ADASD_RESULTS). Models have random weights in the shapes of Qwen2.5-32B and
0.5B, made on the card. ``--rehearse`` runs all of it on a CPU with tiny shapes. The exit status is 0, 1 if a section
failed, 2 without a CUDA device.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from load_tests.cuda.sections import SECTIONS
from load_tests.cuda.sizes import on_a_card, rehearsal

NO_DEVICE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections, print and write their records."""
    options = parse(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("no CUDA device was found, so nothing was measured; --rehearse runs tiny shapes on the CPU")
        return NO_DEVICE
    sizes = rehearsal() if options.rehearse else on_a_card()
    name = "rehearsal" if options.rehearse else torch.cuda.get_device_name(sizes.device)
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / f"cuda-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.jsonl"
    failed = False
    with file.open("w", encoding="utf-8") as stream:
        for section in SECTIONS:
            if options.only and section.__name__ not in options.only:
                continue
            began_s = time.perf_counter()
            try:
                for record in section(sizes):
                    write(stream, section.__name__, record)
            except Exception as error:  # whatever a card or a library raises, the next section may tell more
                failed = True
                write(stream, section.__name__, {"error": f"{type(error).__name__}: {error}"})
                traceback.print_exc()
            write(stream, section.__name__, {"took_s": round(time.perf_counter() - began_s, 3)})
            gc.collect()
            if sizes.device.type == "cuda":
                torch.cuda.empty_cache()
    return 1 if failed else 0


def write(stream: object, section: str, record: dict[str, object]) -> None:
    """One line, at once: what comes later may end the process."""
    line = json.dumps({"section": section, **record})
    print(line, flush=True)
    print(line, file=stream, flush=True)  # type: ignore[call-overload]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.cuda", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = Path(os.environ.get("ADASD_RESULTS", "load_tests/baselines"))
    parser.add_argument("--folder", type=Path, default=default, help="where the records go")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument(
        "--only", nargs="+", choices=[section.__name__ for section in SECTIONS], help="sections"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
