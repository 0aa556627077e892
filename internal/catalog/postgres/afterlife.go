package postgres

// afterlife is the third schema: where items are when they are not live any more. They are in tables of their own, so that no look-up has to
// pass over them; what comes back gets a new id, so that every reference still is to a smaller one and who reads items by ascending
// ids sees it. A nar and its objects stay where they are, and have a state.
const afterlife = `
-- state 0: a live item has it, 1: only condemned items have it, 2: its objects are being deleted. Another nar with its content may come then.
ALTER TABLE nars ADD COLUMN state smallint NOT NULL DEFAULT 0 CHECK (state IN (0, 1, 2));
ALTER TABLE nars DROP CONSTRAINT nars_hash_key;
CREATE UNIQUE INDEX nars_by_hash ON nars(hash) WHERE state < 2;

-- state 3: a file of a nar that no live item has.
ALTER TABLE objects DROP CONSTRAINT objects_check;
ALTER TABLE objects ADD CONSTRAINT objects_check CHECK (state IN (0, 1) AND nar IS NULL OR state IN (2, 3) AND item = '' AND num_nulls(nar, compression, size, sha256, verified) = 0);

-- Items that are withdrawn, under the ids that they had in items.
CREATE TABLE condemned(
	id bigint PRIMARY KEY,
	hash bytea NOT NULL CHECK (octet_length(hash) = 20),
	dir integer NOT NULL,
	name text NOT NULL,
	nar bigint NOT NULL REFERENCES nars(id),
	published bigint NOT NULL,
	by text NOT NULL,
	narinfo bytea NOT NULL,
	withdrawn bigint NOT NULL,
	withdrawn_by text NOT NULL,
	plan text NOT NULL,
	deleting bigint NOT NULL DEFAULT 0  -- since when; 0: it can be brought back
);
CREATE UNIQUE INDEX condemned_by_hash ON condemned(hash) WHERE deleting = 0;
CREATE INDEX condemned_by_nar ON condemned(nar);

-- The references of those that can be brought back, as refs has them. An id in them may since have become another: see former.
CREATE TABLE condemned_refs(id bigint PRIMARY KEY REFERENCES condemned(id), refs bytea NOT NULL);

-- What became of the ids of items that were brought back: the id that the item has now, or had last.
CREATE TABLE former(id bigint PRIMARY KEY, now bigint NOT NULL);
CREATE INDEX former_by_now ON former(now);

-- Items whose objects are deleted.
CREATE TABLE tombstones(
	id bigint PRIMARY KEY,
	hash bytea NOT NULL CHECK (octet_length(hash) = 20),
	dir integer NOT NULL,
	name text NOT NULL,
	nar_hash bytea NOT NULL CHECK (octet_length(nar_hash) = 32),
	nar_size bigint NOT NULL,
	withdrawn bigint NOT NULL,
	withdrawn_by text NOT NULL,
	plan text NOT NULL,
	deleted bigint NOT NULL
);

-- The last generation that was part of something that was withdrawn or replaced, by the key of the first generation: no key up to it is
-- handed out again.
CREATE TABLE spent(key text COLLATE "C" PRIMARY KEY, generation bigint NOT NULL);

-- Promises to uploaders, of items by their ids.
CREATE TABLE leases(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, holder text NOT NULL, expires bigint NOT NULL);
CREATE INDEX leases_by_expiry ON leases(expires);
CREATE TABLE leased(item bigint NOT NULL, lease bigint NOT NULL REFERENCES leases(id) ON DELETE CASCADE, PRIMARY KEY(item, lease));
CREATE INDEX leased_by_lease ON leased(lease);

-- One row, which collectors' decisions are compared with: how many moments were taken, and how often roots have changed. While watched,
-- wishes has the live items that somebody was told of, each with the number of the last moment before. Of what was told before the
-- moment called forgotten ended nothing is known any more; wished is how many were written since then.
CREATE TABLE moment(single boolean PRIMARY KEY CHECK (single), taken bigint NOT NULL, roots bigint NOT NULL, forgotten bigint NOT NULL, wished bigint NOT NULL, watched boolean NOT NULL);
INSERT INTO moment VALUES(true, 0, 0, 0, 0, false);
CREATE TABLE wishes(item bigint PRIMARY KEY, taken bigint NOT NULL);
`

// The states of a nar.
const (
	narLive      = 0
	narCondemned = 1
	narDeleting  = 2
)

// spend keeps the keys of table that were files from being handed out again. Others than those of catalog.NarKey never are.
func spend(table string) string {
	return `INSERT INTO spent(key, generation) SELECT split_part(key, ';', 1), max(coalesce(nullif(split_part(key, ';', 2), '')::bigint, 1)) FROM ` + table + `
		WHERE key ~ '^nar/[^/;]+/[^;]+(;[1-9][0-9]{0,17})?$' GROUP BY 1 ON CONFLICT (key) DO UPDATE SET generation = greatest(spent.generation, excluded.generation)`
}
