package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
)

// migrations bring a catalogue from version i to version i+1. They only ever grow at the end: what has been released is not edited.
// Times are in milliseconds since 1970 by the server's clock, since those of several hosts differ. Text that is compared is ordered
// by its bytes, whatever the database's language.
var migrations = []string{
	`
-- One row, by which a catalogue is known: the version of this schema, which no later one may rename, and the numbers handed out last.
CREATE TABLE narfold_catalogue(single boolean PRIMARY KEY CHECK (single), version integer NOT NULL, item bigint NOT NULL, nar bigint NOT NULL, change bigint NOT NULL);
INSERT INTO narfold_catalogue VALUES(true, 0, 0, 0, 0);

-- One row: where the objects of this catalogue are, so that it is not used with others.
CREATE TABLE home(single boolean PRIMARY KEY CHECK (single), objects text NOT NULL);

-- Nars by content; several items may share one.
CREATE TABLE nars(id bigint PRIMARY KEY, hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32), size bigint NOT NULL);

-- Published items. The id is handed out at publication, so everything that an item references has a smaller one.
CREATE TABLE dirs(id integer PRIMARY KEY, dir text NOT NULL UNIQUE);
CREATE TABLE items(
	id bigint PRIMARY KEY,
	hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 20), -- of the hash part
	dir integer NOT NULL,               -- of dirs
	name text NOT NULL,                 -- without the hash part
	nar bigint NOT NULL REFERENCES nars(id),
	published bigint NOT NULL,
	by text NOT NULL,
	narinfo bytea NOT NULL              -- as signed
);
CREATE INDEX items_by_nar ON items(nar);

-- The reference graph, apart from the wide rows: ids of references, each once, without the item itself,
-- as varints of the distance to the item's own id.
CREATE TABLE refs(id bigint PRIMARY KEY REFERENCES items(id), refs bytea NOT NULL);

-- Every key that was handed out, as one row for all its life, so that the lock of this row decides who has it.
-- state 0: an upload, 1: one that is being cleaned up, 2: a file of a nar.
CREATE TABLE objects(
	key text COLLATE "C" PRIMARY KEY,
	state smallint NOT NULL,
	since bigint NOT NULL,                       -- when it became what it is, or was handed out again
	item text COLLATE "C" NOT NULL DEFAULT '',   -- the item that waits with it
	nar bigint REFERENCES nars(id),
	compression text COLLATE "C",
	size bigint,
	sha256 bytea CHECK (octet_length(sha256) = 32),
	verified bigint,
	CHECK (state IN (0, 1) AND nar IS NULL OR state = 2 AND item = '' AND num_nulls(nar, compression, size, sha256, verified) = 0)
);
CREATE UNIQUE INDEX objects_by_nar ON objects(nar, compression) WHERE nar IS NOT NULL;
CREATE INDEX objects_uploads ON objects(key) WHERE state < 2;
CREATE INDEX objects_by_item ON objects(left(item, 32)) WHERE item <> '';

-- Items whose references are not all published.
CREATE TABLE waiting(hash bytea PRIMARY KEY CHECK (octet_length(hash) = 20), path text NOT NULL, since bigint NOT NULL, publication bytea NOT NULL);
CREATE TABLE waiting_for(missing bytea NOT NULL CHECK (octet_length(missing) = 20), hash bytea NOT NULL REFERENCES waiting(hash), PRIMARY KEY(missing, hash));
CREATE INDEX waiting_by_item ON waiting_for(hash);

-- Every change of what is served, in order and without gaps. op 1: published, 2: files added, 3: file replaced.
CREATE TABLE changes(seq bigint PRIMARY KEY, op smallint NOT NULL, item bigint NOT NULL, at bigint NOT NULL);

CREATE TABLE differences(hash bytea NOT NULL, other bytea NOT NULL CHECK (octet_length(other) = 32), live bytea NOT NULL CHECK (octet_length(live) = 32), path text NOT NULL, by text NOT NULL, seen bigint NOT NULL, PRIMARY KEY(hash, other));
CREATE TABLE logs(of text COLLATE "C" PRIMARY KEY, key text COLLATE "C" NOT NULL);
CREATE INDEX logs_by_key ON logs(key);
CREATE TABLE tokens(hash bytea PRIMARY KEY, name text COLLATE "C" NOT NULL, scopes text NOT NULL, created bigint NOT NULL, expires bigint NOT NULL, revoked bigint NOT NULL);
CREATE UNIQUE INDEX tokens_by_name ON tokens(name) WHERE revoked = 0;

-- The change feed as it was told: its name, the records that are in no segment yet, and the segments.
CREATE TABLE feed(single boolean PRIMARY KEY CHECK (single), origin text NOT NULL);
CREATE TABLE feed_lines(seq bigint PRIMARY KEY, chain bytea NOT NULL CHECK (octet_length(chain) = 32), line bytea NOT NULL);
CREATE TABLE feed_segments(number bigint PRIMARY KEY, last bigint NOT NULL, chain bytea NOT NULL CHECK (octet_length(chain) = 32), size bigint NOT NULL, sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32), packed bytea NOT NULL);
`,
	// Texts of the feed's segments are in the object store alone; what is here of them says what they are. Those that were kept here wait in
	// feed_packed until a herder has moved them.
	`
ALTER TABLE feed_segments RENAME TO feed_packed;
ALTER INDEX feed_segments_pkey RENAME TO feed_packed_pkey;
CREATE TABLE feed_segments(number bigint PRIMARY KEY, last bigint NOT NULL, chain bytea NOT NULL CHECK (octet_length(chain) = 32), size bigint NOT NULL, sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32));
INSERT INTO feed_segments SELECT number, last, chain, size, sha256 FROM feed_packed;
`,
	afterlife,
	templates,
	popularity,
}

// The states of an object.
const (
	stateUpload    = 0
	stateAbandoned = 1
	stateFile      = 2
	stateCondemned = 3
)

// serverTime is the present in milliseconds since 1970; unlike now(), not that of the beginning of the transaction.
const serverTime = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

// migrate brings the schema up to date in one transaction, and refuses what it does not know. Of several processes that do so at once,
// and of those that publish with the older schema, one waits for another.
func (db *DB) migrate(ctx context.Context, migrations []string) error {
	var version int
	err := db.read(ctx, func(tx pgx.Tx) (err error) {
		version, err = schemaVersion(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	if version >= len(migrations) {
		return known(version, len(migrations))
	}
	return db.publish(ctx, func(tx pgx.Tx) error {
		version, err := schemaVersion(ctx, tx)
		if err != nil {
			return err
		}
		if err := known(version, len(migrations)); err != nil {
			return err
		}
		for i := version; i < len(migrations); i++ {
			if _, err := tx.Exec(ctx, migrations[i]); err != nil {
				return fmt.Errorf("migrate catalogue to schema %d: %w", i+1, err)
			}
		}
		_, err = tx.Exec(ctx, "UPDATE narfold_catalogue SET version = $1", len(migrations))
		return err
	})
}

// known refuses a schema that is newer than the newest that this version knows.
func known(version, newest int) error {
	if version > newest {
		return fmt.Errorf("%w: it has schema %d, this one knows up to %d; run the newer version", catalog.ErrNewer, version, newest)
	}
	return nil
}

// schemaVersion returns the version of the catalogue's schema, 0 if there is nothing yet, or catalog.ErrForeign.
func schemaVersion(ctx context.Context, tx pgx.Tx) (version int, err error) {
	var (
		schema *string
		ours   bool
		things int
	)
	// What an extension has brought is nobody's data.
	err = tx.QueryRow(ctx, `SELECT current_schema(), to_regclass(quote_ident(current_schema()) || '.narfold_catalogue') IS NOT NULL,
		(SELECT count(*) FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
			AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'))`).
		Scan(&schema, &ours, &things)
	switch {
	case err != nil:
		return 0, fmt.Errorf("look for the catalogue: %w", err)
	case schema == nil:
		return 0, errors.New("look for the catalogue: no schema of the search path exists, or may be used")
	case !ours && things > 0:
		return 0, fmt.Errorf("%w: schema %q has %d tables and other things of another program; give the catalogue a database of its own", catalog.ErrForeign, *schema, things)
	case !ours:
		return 0, nil
	}
	if err := tx.QueryRow(ctx, "SELECT version FROM narfold_catalogue").Scan(&version); err != nil {
		return 0, fmt.Errorf("read version of the catalogue's schema: %w", err)
	}
	return version, nil
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}
