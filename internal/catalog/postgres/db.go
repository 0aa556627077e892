// Package postgres is the catalogue in a PostgreSQL database: for a herder of several processes, on one host or on many.
//
// Transactions that publish, withdraw or bring back take one advisory lock, so that the order of the ids is the order of the commits: what an
// item references has a smaller sequence, and a reader that has seen a sequence never sees a smaller one appear later. The same lock
// closes the races of collection against publication. All else (handing out keys, promising that what is live stays, cleaning up,
// reading) needs no such turn; a key is one row from the day it is handed out until its object is deleted, and the lock of that row
// decides between those who want it. A publication of any size is four round trips: lock, look up, record, commit; some more when
// anything that it names waits or is condemned.
//
// A commit whose answer is lost is an error, and may be done all the same. To ask again is right in every case: Publish finds Present,
// or lets an item wait again; Reserve hands out the same keys; Restore finds what is live; BeginDelete and Deleted say the same, or pass
// over what is done; Abandon, Abandoned, RecordVerified, AddLog, RenewLease, ReleaseLease and ObjectsAt come to the same; a lease that
// nobody knows of expires. What happens only once tells that it has happened: Withdraw says catalog.NotLive, Replace
// catalog.ErrNotFound, AppendFeed and SealFeed catalog.ErrFeedMoved, AddToken that the name is in use, RevokeToken catalog.ErrNotFound.
// When a connection is lost before the commit, nothing was changed. The next call makes a new connection.
package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"narfold/internal/catalog"
)

// DB is an open catalogue. It is safe for concurrent use.
type DB struct {
	pool *pgxpool.Pool
	// publishing holds this process's only permit to publish, so that those who wait for their turn do so without a connection, of
	// which readers would have fewer, and leave when their context ends.
	publishing chan struct{}
	facts      facts
}

var _ catalog.Catalogue = (*DB)(nil)

// Options are the parts of a connection that do not belong in a URL.
type Options struct {
	// PasswordFile names a file whose first line is the password. It is read for every new connection, so that a password can be
	// changed while the catalogue is open. Without it the password comes from the URL, PGPASSWORD or PGPASSFILE.
	PasswordFile string
	// Connections is the most that are open at a time; 0 is twice GOMAXPROCS, at least 4.
	Connections int
}

// settings are those of every connection. What is committed is on the disk, whatever the server's default is. Every query here is meant
// to go by an index, row by row: a plan is kept as long as the connection, and one that was made while a table was small would read
// all of it when it has become large. Those who do read all say so (see DB.read). A process that vanished with its host must not keep the publishing lock for the hours that TCP would give it.
const settings = `
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;
SET idle_in_transaction_session_timeout = '60s';
SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3`

// Open opens the catalogue in the database that url names (postgres://user@host/database?sslmode=verify-full, or keyword=value pairs,
// as libpq has them), creating and migrating it as needed; the tables are made in the first schema of the search path. It fails with
// catalog.ErrForeign if something else is in that schema, and with catalog.ErrNewer if a newer version has written there. Connections
// are sessions: a pooler in between must not change the server's process between two statements.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("open catalogue: %w", err)
	}
	name := fmt.Sprintf("%s at %s", config.ConnConfig.Database, config.ConnConfig.Host)
	config.MaxConns = int32(o.Connections)
	if o.Connections <= 0 {
		config.MaxConns = int32(max(4, 2*runtime.GOMAXPROCS(0)))
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "narfold"
	}
	// A server that vanished with its host is noticed in a minute, by whoever waits for its answer.
	config.ConnConfig.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}).DialContext
	if o.PasswordFile != "" {
		config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			b, err := os.ReadFile(o.PasswordFile)
			if err != nil {
				return fmt.Errorf("read the catalogue's password: %w", err)
			}
			line, _, _ := strings.Cut(string(b), "\n")
			c.Password = strings.TrimSuffix(line, "\r")
			return nil
		}
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, settings); err != nil {
			return fmt.Errorf("set up connection: %w", err)
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open catalogue %s: %w", name, err)
	}
	db := &DB{pool: pool, publishing: make(chan struct{}, 1)}
	db.publishing <- struct{}{}
	if err := db.migrate(ctx, migrations); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open catalogue %s: %w", name, err)
	}
	return db, nil
}

// Close waits for what is under way and closes the connections.
func (db *DB) Close() error {
	<-db.publishing
	defer func() { db.publishing <- struct{}{} }()
	db.pool.Close()
	return nil
}

// Version implements catalog.Reader.
func (db *DB) Version(ctx context.Context) (version int64, err error) {
	err = db.ask(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT change FROM narfold_catalogue").Scan(&version)
	})
	if err != nil {
		return 0, fmt.Errorf("read version of the catalogue: %w", err)
	}
	return version, nil
}

// ObjectsAt implements catalog.Catalogue.
func (db *DB) ObjectsAt(ctx context.Context, where string) (recorded string, err error) {
	err = db.write(ctx, begin, func(tx pgx.Tx) error {
		recorded = ""
		if where != "" {
			if _, err := tx.Exec(ctx, "INSERT INTO home(single, objects) VALUES(true, $1) ON CONFLICT DO NOTHING", where); err != nil {
				return err
			}
		}
		return optional(tx.QueryRow(ctx, "SELECT objects FROM home").Scan(&recorded))
	})
	if err != nil {
		return "", fmt.Errorf("record where the objects are: %w", err)
	}
	return recorded, nil
}
