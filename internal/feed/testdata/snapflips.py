#!/usr/bin/env python3
"""Changes bits all over what a reader reads who begins with a snapshot, and prints each change that verify.py does not find.

usage: snapflips.py KEY FOLDER BYTES     a copy of an object store; of each file some BYTES are tried
"""

import functools
import random
import sys

import verify

key, root, most = verify.read(sys.argv[1]), sys.argv[2], int(sys.argv[3])
random.seed(1)
unpack = functools.lru_cache(None)(verify.unpack)
files = {}


def get(name):
    if name not in files:
        files[name] = verify.read(root + "/" + name)
    return files[name]


def verified():
    try:
        verify.follow(get, True, key, True, unpack)
        return True
    except (verify.Wrong, ValueError, KeyError, IndexError, TypeError, AttributeError, FileNotFoundError):
        return False


if not verified():
    sys.exit("the feed is wrong before anything is changed")
tried = 0
for name, text in list(files.items()):
    for i in sorted(random.sample(range(len(text)), min(most, len(text)))):
        for changed in text[:i] + bytes([text[i] ^ 1 << random.randrange(8)]) + text[i + 1:], text[:i]:
            tried += 1
            files[name] = changed
            if verified():
                print("%s: byte %d" % (name, i))
    files[name] = text
print("tried %d changes of %d files" % (tried, len(files)))
