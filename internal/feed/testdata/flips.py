#!/usr/bin/env python3
"""Changes every bit of a feed in turn and cuts it off at every byte, and prints each change that verify.py does not find.

usage: flips.py KEY HEAD STRETCH...
"""

import sys

import verify


def verified(key, head, stretches, known=None):
    try:
        r = verify.Reader(known or verify.read_head(head, verify.read_key(key)))
        for s in stretches:
            r.stretch(s)
        r.done()
        return True
    except (verify.Wrong, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False


def changes(text, bits):
    for i in range(len(text)):
        for bit in bits:
            yield "byte %d bit %d" % (i, bit), text[:i] + bytes([text[i] ^ 1 << bit]) + text[i + 1:]
        yield "cut off at %d" % i, text[:i]


key, head, *stretches = map(verify.read, sys.argv[1:])
if not verified(key, head, stretches):
    sys.exit("the feed is wrong before anything is changed")
known = verify.read_head(head, verify.read_key(key))
tried = 0
for what, changed in changes(key, (0, 5)):
    tried += 1
    if verified(changed, head, stretches):
        print("key:", what)
for what, changed in changes(head, (0, 5)):
    tried += 1
    if verified(key, changed, stretches):
        print("head:", what)
for n, text in enumerate(stretches):
    for what, changed in changes(text, range(8)):
        tried += 1
        if verified(key, head, stretches[:n] + [changed] + stretches[n + 1:], known):
            print("stretch %d:" % n, what)
print("tried", tried)
