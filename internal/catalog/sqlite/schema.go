package sqlite

import (
	"fmt"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
)

// applicationID marks the file as a Narfold catalogue ("narf"), so that another program's database is not taken for one.
const applicationID = 0x6e617266

// firstSchema is the number of the first schema in migrations; earlier ones were never released.
const firstSchema = 3

// migrations bring a catalogue from one version to the next. They only ever grow at the end: what has been released is not edited.
var migrations = []string{tables + indexes, afterlife, sealedElsewhere, popularity}

// tables and indexes are the first schema. The indexes by hash are apart, because whoever fills an empty catalogue makes them at the end.
const (
	tables = `
-- One row: where the objects of this catalogue are, so that it is not used with others.
CREATE TABLE home(only INTEGER PRIMARY KEY CHECK (only = 1), objects TEXT NOT NULL);

-- Published items. The id is handed out at publication, so everything that an item references has a smaller one.
CREATE TABLE items(
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	hash BLOB NOT NULL,                 -- the 20 bytes of the hash part, last byte first: in the order of its text
	dir INTEGER NOT NULL REFERENCES texts(id),
	name TEXT NOT NULL,                 -- without the hash part
	nar INTEGER NOT NULL REFERENCES nars(id),
	published INTEGER NOT NULL,         -- unix milliseconds
	by INTEGER NOT NULL REFERENCES texts(id),
	template INTEGER REFERENCES texts(id), -- of the narinfo, see package compact; NULL if narinfo is the text itself
	narinfo BLOB NOT NULL               -- what is the narinfo's own
);

-- What many rows have in common: store directories, publishers, templates of narinfos.
CREATE TABLE texts(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);

-- The reference graph, apart from the wide rows: ids of references, each once, without the item itself,
-- as varints of the distance to the item's own id.
CREATE TABLE refs(id INTEGER PRIMARY KEY REFERENCES items(id), refs BLOB NOT NULL);

-- Nars by content; several items may share one.
CREATE TABLE nars(id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL, size INTEGER NOT NULL);

-- Their compressed forms. The key is that of a generation of the item owner, which has this nar, unless it is given.
CREATE TABLE files(
	nar INTEGER NOT NULL REFERENCES nars(id),
	method INTEGER NOT NULL,            -- of methods in files.go
	size INTEGER NOT NULL,
	sha256 BLOB NOT NULL,
	verified INTEGER NOT NULL,          -- unix milliseconds
	owner INTEGER,                      -- the item whose key it is
	generation INTEGER,
	key TEXT,
	PRIMARY KEY(nar, method),
	CHECK ((key IS NULL) = (owner IS NOT NULL) AND (key IS NULL) = (generation IS NOT NULL))
) WITHOUT ROWID;
CREATE UNIQUE INDEX files_by_key ON files(key) WHERE key IS NOT NULL;

-- Sums over the tables above, which take seconds to count when they are large: of items by store directory, of nars and files in one row.
CREATE TABLE sums(dir INTEGER PRIMARY KEY REFERENCES texts(id), items INTEGER NOT NULL);
CREATE TABLE narsums(only INTEGER PRIMARY KEY CHECK (only = 1), nars INTEGER NOT NULL, nar_bytes INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO narsums VALUES(1, 0, 0, 0, 0);

-- Keys handed out for objects that no published item uses yet. state 1: being cleaned up.
CREATE TABLE uploads(key TEXT NOT NULL PRIMARY KEY, since INTEGER NOT NULL, state INTEGER NOT NULL DEFAULT 0, item TEXT NOT NULL DEFAULT '') WITHOUT ROWID;

-- Items whose references are not all published.
CREATE TABLE waiting(hash BLOB NOT NULL PRIMARY KEY, since INTEGER NOT NULL, publication BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE waiting_for(missing BLOB NOT NULL, hash BLOB NOT NULL REFERENCES waiting(hash), PRIMARY KEY(missing, hash)) WITHOUT ROWID;
CREATE INDEX waiting_by_item ON waiting_for(hash);

-- Every change of what is served, in order: what mirrors will follow. op 1: published, 2: files added, 3: a file replaced.
CREATE TABLE changes(seq INTEGER PRIMARY KEY AUTOINCREMENT, op INTEGER NOT NULL, item INTEGER NOT NULL, at INTEGER NOT NULL);

CREATE TABLE differences(hash BLOB NOT NULL, other BLOB NOT NULL, live BLOB NOT NULL, path TEXT NOT NULL, by TEXT NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY(hash, other)) WITHOUT ROWID;
CREATE TABLE logs(of TEXT NOT NULL PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX logs_by_key ON logs(key);
CREATE TABLE tokens(hash BLOB NOT NULL PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, revoked INTEGER NOT NULL);

-- The change feed as it was told: its name, the records that are in no segment yet, and the segments.
CREATE TABLE feed(only INTEGER PRIMARY KEY CHECK (only = 1), origin TEXT NOT NULL);
CREATE TABLE feed_lines(seq INTEGER PRIMARY KEY, chain BLOB NOT NULL, line BLOB NOT NULL);
CREATE TABLE feed_segments(number INTEGER PRIMARY KEY, last INTEGER NOT NULL, chain BLOB NOT NULL, size INTEGER NOT NULL, sha256 BLOB NOT NULL, packed BLOB NOT NULL);
`
	indexes = `
CREATE UNIQUE INDEX items_by_hash ON items(hash);
CREATE INDEX items_by_nar ON items(nar);
CREATE UNIQUE INDEX nars_by_hash ON nars(hash);
`
)

// sealedElsewhere takes the texts of the feed's segments out of the catalogue: they are in the object store alone, and what is here of them
// says what they are. Texts that were kept here wait in feed_packed until a herder has moved them.
const sealedElsewhere = `
ALTER TABLE feed_segments RENAME TO feed_packed;
CREATE TABLE feed_segments(number INTEGER PRIMARY KEY, last INTEGER NOT NULL, chain BLOB NOT NULL, size INTEGER NOT NULL, sha256 BLOB NOT NULL);
INSERT INTO feed_segments SELECT number, last, chain, size, sha256 FROM feed_packed;
`

// lastSchema is the number of the schema that this version writes.
var lastSchema = firstSchema + len(migrations) - 1

// pragmas are set on each connection. FULL makes a commit survive a power cut; the cache is in KiB, and one for all connections of the
// process, of the size that they ask for together: this SQLite is built so. A writer in another process is waited for.
var pragmas = []string{
	"busy_timeout = 30000",
	"journal_mode = WAL",
	"synchronous = FULL",
	"foreign_keys = ON",
	"cache_size = -32768",
	"journal_size_limit = 67108864",
	"temp_store = MEMORY",
}

// readerCache is what each connection adds to the cache that does not write, in KiB.
const readerCache = "cache_size = -512"

// configure sets pragmas one at a time: a script would run them inside a savepoint, where some may not change.
func configure(conn *sqlite.Conn, pragmas ...string) error {
	for _, p := range pragmas {
		if err := sqlitex.ExecuteTransient(conn, "PRAGMA "+p, nil); err != nil {
			return fmt.Errorf("set %s: %w", p, mapError(err))
		}
	}
	return nil
}

// migrate brings the schema up to date, in one transaction, and refuses what it does not know.
func migrate(conn *sqlite.Conn) (err error) {
	end, err := sqlitex.ImmediateTransaction(conn)
	if err != nil {
		return fmt.Errorf("lock catalogue: %w", mapError(err))
	}
	defer end(&err)
	version, err := intPragma(conn, "user_version")
	if err != nil {
		return err
	}
	id, err := intPragma(conn, "application_id")
	if err != nil {
		return err
	}
	tables, err := scalar(conn, "SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return err
	}
	switch {
	case tables > 0 && id != applicationID:
		return fmt.Errorf("open catalogue: the file is another program's SQLite database (application id %#x)", id)
	}
	if err := knownSchema(version); err != nil && tables > 0 {
		return err
	}
	for i := max(version+1, firstSchema); i <= lastSchema; i++ {
		if err := sqlitex.ExecuteScript(conn, migrations[i-firstSchema], nil); err != nil {
			return fmt.Errorf("migrate catalogue to schema %d: %w", i, mapError(err))
		}
	}
	if version < lastSchema {
		return sqlitex.ExecuteScript(conn, fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d;", lastSchema, applicationID), nil)
	}
	return nil
}

// knownSchema refuses a catalogue of a schema that this version does not know.
func knownSchema(version int) error {
	switch {
	case version > lastSchema:
		return fmt.Errorf("%w: it has schema %d, this one knows up to %d; run the newer version", catalog.ErrNewer, version, lastSchema)
	case version < firstSchema:
		return fmt.Errorf("%w: it has schema %d, of before the first release; import its items anew", catalog.ErrForeign, version)
	}
	return nil
}

func intPragma(conn *sqlite.Conn, name string) (int, error) {
	n, err := scalar(conn, "PRAGMA "+name)
	return int(n), err
}

func scalar(conn *sqlite.Conn, query string, args ...any) (n int64, err error) {
	err = sqlitex.Execute(conn, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(s *sqlite.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	}})
	if err != nil {
		return 0, fmt.Errorf("query catalogue: %w", mapError(err))
	}
	return n, nil
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
