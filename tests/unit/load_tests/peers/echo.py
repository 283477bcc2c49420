"""A peer for tests: repeats the prompt."""

import sys
import time

from load_tests.peers.workers.lines import serve


def load():
    print("a library's chatter, which must not disturb the lines")
    if sys.argv[1:] == ["hangs"]:
        time.sleep(20)
    if sys.argv[1:] == ["dies at start"]:
        print("no such model", file=sys.stderr)
        sys.exit(3)

    def answer(prompt, max_tokens, mode):
        if sys.argv[1:] == ["dies"]:
            print("out of words", file=sys.stderr)
            sys.exit(4)
        return prompt[:max_tokens] * (2 if mode == "twice" else 1)

    return answer


if __name__ == "__main__":
    serve(load)
