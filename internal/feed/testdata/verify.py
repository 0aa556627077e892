#!/usr/bin/env python3
"""Reads a change feed and checks it, after docs/feed.md (and RFC 8032 for Ed25519) alone.

usage: verify.py KEY HEAD [STRETCH...]     files, the stretches in order from record 1
       verify.py --url KEY ROOT            a herder, or a folder with a copy of its object store
       verify.py --snapshot KEY ROOT       the same, from its snapshot on
Prints one line about what was verified and exits with 0, or says what is wrong and exits with 1.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
import urllib.request


class Wrong(Exception):
    pass


def need(condition, message):
    if not condition:
        raise Wrong(message)


# Ed25519, RFC 8032 section 5.1, in affine coordinates kept as (X, Y, Z, T).
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(n, p):
    q = (0, 1, 1, 0)
    while n:
        if n & 1:
            q = add(q, p)
        p = add(p, p)
        n >>= 1
    return q


def same(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def point(b):
    y = int.from_bytes(b, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    need(y < P, "Ed25519: not a point")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    need((x * x - square) % P == 0 and not (x == 0 and sign), "Ed25519: not a point")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def check_signature(public, message, signature):
    s = int.from_bytes(signature[32:], "little")
    need(s < ORDER, "head: signature: S is not below the order")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    need(same(times(s, BASE), add(point(signature[:32]), times(k, point(public)))), "head: the signature is not by the key")


def named(text, size):
    name, colon, packed = text.partition(":")
    need(colon and name and not re.search(r"\s", name), "want <name>:<base64>")
    b = base64.b64decode(packed, validate=True)
    need(len(b) == size and base64.b64encode(b).decode() == packed, "base64 is written otherwise")
    return name, b


def lines(text):
    """The lines of a text, each of which ends in LF."""
    need(text.endswith(b"\n"), "the last line is cut off")
    return text[:-1].split(b"\n")


def value(line, name):
    line = line.decode()
    need(line.startswith(name + " "), "want a line that begins with %r" % name)
    return line[len(name) + 1:]


def matching(pattern, text):
    need(re.fullmatch(pattern, text, re.ASCII), "%r is not as it should be" % text)
    return text


def number(text):
    return int(matching("0|[1-9][0-9]*", text))


def digest(text):
    return bytes.fromhex(matching("[0-9a-f]{64}", text))


def origin(text):
    return matching("[0-9a-f]{32}", text)


def read_key(text):
    (line,) = lines(text)
    return named(line.decode(), 32)


def read_head(text, key):
    ls = lines(text)
    need(len(ls) == 6 and ls[0] == b"narfold-feed-head 1", "head: want six lines")
    head = origin(value(ls[1], "origin")), number(value(ls[2], "sequence")), digest(value(ls[3], "chain"))
    matching(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", value(ls[4], "time"))
    name, signature = named(value(ls[5], "signature"), 64)
    need(name == key[0], "head: signed by %r, the key is %r" % (name, key[0]))
    check_signature(key[1], b"".join(l + b"\n" for l in ls[:5]), signature)
    return head


def read_snapshot(text, key):
    """Returns origin, number, chain, until, items, and the name and size of the index."""
    ls = lines(text)
    need(len(ls) == 9 and ls[0] == b"narfold-feed-snapshot 1", "snapshot: want nine lines")
    index, size = value(ls[6], "index").split(" ")
    snapshot = (origin(value(ls[1], "origin")), number(value(ls[2], "sequence")), digest(value(ls[3], "chain")), number(value(ls[4], "until")),
                number(value(ls[5], "items")), digest(index), number(size))
    matching(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", value(ls[7], "time"))
    name, signature = named(value(ls[8], "signature"), 64)
    need(name == key[0], "snapshot: signed by %r, the key is %r" % (name, key[0]))
    check_signature(key[1], b"".join(l + b"\n" for l in ls[:8]), signature)
    need(snapshot[1] <= snapshot[3], "snapshot: it ends before it begins")
    return snapshot


def read_index(text):
    """Returns for each part the hash and size of its file, how many items it has, and the hash and size of their lines."""
    ls = lines(text)
    need(ls[0] == b"narfold-feed-snapshot-index 1" and ls[-1] == b"end %d" % (len(ls) - 2), "index: want its first and its last line")
    parts = []
    for line in ls[1:-1]:
        sha, size, items, plain, length = line.decode().split("\t")
        parts.append((digest(sha), number(size), number(items), digest(plain), number(length)))
    return parts


def hashed(text, sha, size, what):
    need(len(text) == size and hashlib.sha256(text).digest() == sha, what + ": it is not what is named")
    return text


def unpack(packed):
    return subprocess.run(["zstd", "-dcq"], input=packed, stdout=subprocess.PIPE, check=True).stdout


def listed(get, snapshot, unpack=unpack):
    """Returns the paths of the items of a snapshot, some of which may be there twice."""
    paths = []
    index = hashed(get("feed/snapshots/%s.index" % snapshot[5].hex()), snapshot[5], snapshot[6], "index")
    for sha, size, items, plain, length in read_index(index):
        packed = hashed(get("feed/snapshots/%s.zst" % sha.hex()), sha, size, "part")
        ls = lines(hashed(unpack(packed), plain, length, "part"))
        need(len(ls) == items, "part: it has %d items" % len(ls))
        for line in ls:
            i = json.loads(line)
            need(i["files"] and "StorePath: %s\n" % i["path"] in i["narinfo"] and "seq" not in i, "an item of the snapshot is not whole")
            paths.append(i["path"])
    need(len(paths) == snapshot[4], "the snapshot has %d items" % len(paths))
    return paths


class Reader:
    """Follows one feed from its beginning, or a later place, to a head."""

    def __init__(self, head):
        self.origin, self.goal, self.want = head
        self.at, self.items = 0, set()
        self.chain = hashlib.sha256(b"narfold-feed 1\n" + self.origin.encode() + b"\n").digest()
        self.compare()

    def compare(self):
        if self.at == self.goal:
            need(self.chain == self.want, "at record %d the chain is not the head's" % self.at)

    def stretch(self, text):
        """Reads a stretch and returns how many records it had."""
        ls = lines(text)
        need(len(ls) >= 5 and ls[0] == b"narfold-feed-stretch 1", "stretch: want at least five lines")
        need(origin(value(ls[1], "origin")) == self.origin, "stretch: of another feed")
        need(number(value(ls[2], "first")) == self.at + 1, "stretch: does not begin at record %d" % (self.at + 1))
        need(digest(value(ls[3], "before")) == self.chain, "stretch: does not continue the chain at record %d" % self.at)
        for line in ls[4:-1]:
            self.record(line)
        need(digest(value(ls[-1], "after")) == self.chain, "stretch: the chain at its end is another")
        return len(ls) - 5

    def record(self, line):
        r = json.loads(line)
        need(r["seq"] == self.at + 1, "record %d is numbered %r" % (self.at + 1, r["seq"]))
        self.chain = hashlib.sha256(self.chain + line + b"\n").digest()
        self.at += 1
        self.compare()
        if r["op"] in ("publish", "undo", "files"):
            need(r["files"] and "StorePath: %s\n" % r["path"] in r["narinfo"], "record %d is not whole" % self.at)
            self.items.add(r["path"])
        elif r["op"] in ("withdraw", "delete"):
            self.items.discard(r["path"])
        else:
            raise Wrong("record %d: operation %r is not known" % (self.at, r["op"]))

    def done(self):
        need(self.at >= self.goal, "the records end at %d, the head stands at %d" % (self.at, self.goal))


    def begin(self, snapshot, paths):
        """Goes on where a snapshot was made. What it lists is right when the records are read to where it says."""
        need(snapshot[0] == self.origin, "snapshot: of another feed")
        need(snapshot[3] <= self.goal, "snapshot: the head stands before it")
        self.at, self.chain, self.items = snapshot[1], snapshot[2], set(paths)
        self.compare()


def follow(get, static, key, snapshot=False, unpack=unpack):
    """Reads a feed by the names of its URLs."""
    key = read_key(key)
    if snapshot:
        snapshot = read_snapshot(get("feed/snapshot"), key)
        paths = listed(get, snapshot, unpack)
    r = Reader(read_head(get("feed/head"), key))
    if snapshot:
        r.begin(snapshot, paths)
    while r.goal - r.at >= 1000:
        need(r.stretch(get("feed/segments/%d" % (r.at // 1000 + 1))) == 1000, "segment: not 1000 records")
    if static and r.at < r.goal:
        r.stretch(get("feed/tail"))
    while r.at < r.goal:
        need(not static and r.stretch(get("feed?since=%d" % r.at)), "the head is beyond the last record")
    r.done()
    return r


def read(path):
    with open(path, "rb") as f:
        return f.read()


def fetch(url):
    with urllib.request.urlopen(url, timeout=90) as answer:
        return answer.read()


def main(args):
    if args[0] in ("--url", "--snapshot"):
        root = args[2]
        static = not root.startswith("http")
        r = follow(lambda name: (read if static else fetch)(root + "/" + name), static, read(args[1]), args[0] == "--snapshot")
    else:
        key = read_key(read(args[0]))
        r = Reader(read_head(read(args[1]), key))
        for path in args[2:]:
            r.stretch(read(path))
        r.done()
    print("verified %d records of %s up to %d: %d items" % (r.at, r.origin, r.goal, len(r.items)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Wrong, ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
        print("wrong: %s" % e)
        sys.exit(1)
