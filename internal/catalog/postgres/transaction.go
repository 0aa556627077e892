package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"narfold/internal/catalog"
)

// The advisory locks, numbers of the database whose upper half is "narf". They end with the transaction.
const (
	publishLock = 0x6e617266_00000001 // who publishes, replaces, withdraws, brings back, deletes or migrates
	feedLock    = 0x6e617266_00000002 // who appends to the feed or seals a part of it
	cleanLock   = 0x6e617266_00000003 // shared: who hands out keys; alone: who forgets them
	promiseLock = 0x6e617266_00000004 // shared: who promises that live items stay; alone: who withdraws, or takes a moment
)

// The statements that transactions begin with, one round trip with their lock. Each statement after it sees what was committed before
// that statement, so also what those did who had the lock before. Statements are planned anew, for tables as large as they are now: for
// a batch of items that is cheap.
const begin = "begin isolation level read committed read write; set local plan_cache_mode = force_custom_plan"

var (
	beginPublishing = fmt.Sprintf("%s; select pg_advisory_xact_lock(%d)", begin, int64(publishLock))
	beginFeeding    = fmt.Sprintf("%s; select pg_advisory_xact_lock(%d)", begin, int64(feedLock))
	beginReserving  = fmt.Sprintf("%s; select pg_advisory_xact_lock_shared(%d)", begin, int64(cleanLock))
	beginForgetting = fmt.Sprintf("%s; select pg_advisory_xact_lock(%d)", begin, int64(cleanLock))

	// Whoever changes what is live has the publishing lock, so publishing, bringing back, withdrawing and the beginning of a deletion come one
	// after the other, each with all that the one before has done. A promise of what is live already waits for none of them but for who
	// withdraws. All take their locks in this order, so that none waits for another in a circle: publishLock, promiseLock, cleanLock; then
	// the row of narfold_catalogue, those of objects by their keys, that of the lease, that of moment, and those of wishes. Where rows of
	// objects cannot be taken in that order the server ends one of two in a circle, and it is tried again.
	beginPromising   = fmt.Sprintf("%s; select pg_advisory_xact_lock_shared(%d)", begin, int64(promiseLock))
	beginWithdrawing = fmt.Sprintf("%s; select pg_advisory_xact_lock(%d)", beginPublishing, int64(promiseLock))
	beginBurying     = fmt.Sprintf("%s; select pg_advisory_xact_lock(%d)", beginPublishing, int64(cleanLock))
)

const (
	// attempts is how often a transaction is tried that the server ended in favour of another.
	attempts = 8
	// endTime is how long the end of a transaction may take. It does not depend on the caller's context, so that a caller who gives
	// up at that moment knows what became of it.
	endTime = 30 * time.Second
)

// publish runs f in a transaction that has the publishing lock.
func (db *DB) publish(ctx context.Context, f func(pgx.Tx) error) error {
	return db.inTurn(ctx, beginPublishing, f)
}

// inTurn runs f in a transaction that begins with the publishing lock.
func (db *DB) inTurn(ctx context.Context, begin string, f func(pgx.Tx) error) error {
	select {
	case <-db.publishing:
		defer func() { db.publishing <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("use catalogue: %w", context.Cause(ctx))
	}
	return db.write(ctx, begin, f)
}

// write runs f in a transaction that is durable when write returns nil. It may run f several times, of which only the last counts.
func (db *DB) write(ctx context.Context, begin string, f func(pgx.Tx) error) error {
	for attempt := 1; ; attempt++ {
		began, err := db.transact(ctx, begin, f)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return explain(ctx, err)
		case !began && attempt == 1:
			// The connection was from before the server's restart, and others may be.
			db.pool.Reset()
		case !retryable(err) || attempt == attempts:
			return explain(ctx, err)
		default:
			t := time.NewTimer(time.Duration(rand.Int64N(int64(10 * time.Millisecond << attempt))))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return explain(ctx, err)
			}
		}
	}
}

// transact runs f in a transaction. It reports began if the transaction began.
func (db *DB) transact(ctx context.Context, begin string, f func(pgx.Tx) error) (began bool, err error) {
	tx, err := db.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
	if err != nil {
		return false, err
	}
	err = f(tx)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if err != nil {
		// When this is an error too the connection is closed, and with it the transaction ends.
		_ = tx.Rollback(ending)
		return true, err
	}
	if err := tx.Commit(ending); err != nil {
		// A server that shuts down may say so after it has committed.
		refused := (*pgconn.PgError)(nil)
		if certain := errors.As(err, &refused) && refused.Severity != "FATAL" || errors.Is(err, pgx.ErrTxCommitRollback); !certain {
			err = fmt.Errorf("the answer to the commit was lost, it may be done: %w", err)
		}
		return true, err
	}
	return true, nil
}

// read runs f in a transaction that sees one moment, and in which tables may be read whole by queries that are not kept (wholeTable).
func (db *DB) read(ctx context.Context, f func(pgx.Tx) error) error {
	return db.write(ctx, "begin isolation level repeatable read read only; set local enable_seqscan = on; set local enable_bitmapscan = on", f)
}

// wholeTable, before the arguments of a query, has it planned for this one time.
const wholeTable = pgx.QueryExecModeCacheDescribe

// ask runs f, which makes one query, and runs it once more if the connection was lost.
func (db *DB) ask(ctx context.Context, f func(*pgx.Conn) error) error {
	for first := true; ; first = false {
		lost, err := db.askOnce(ctx, f)
		if err == nil {
			return nil
		}
		if !lost || !first || ctx.Err() != nil {
			return explain(ctx, err)
		}
		db.pool.Reset()
	}
}

func (db *DB) askOnce(ctx context.Context, f func(*pgx.Conn) error) (lost bool, err error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return true, err
	}
	defer conn.Release()
	err = f(conn.Conn())
	return err != nil && conn.Conn().IsClosed(), err
}

// rows runs a query of one moment and collects what scan makes of its rows.
func rows[T any](ctx context.Context, db *DB, scan func(pgx.CollectableRow) (T, error), query string, args ...any) (all []T, err error) {
	err = db.ask(ctx, func(conn *pgx.Conn) error {
		answer, err := conn.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(answer, scan)
		return err
	})
	return all, err
}

// explain gives the context's reason where there is one, and marks a full disk, on which callers decide.
func explain(ctx context.Context, err error) error {
	refused := (*pgconn.PgError)(nil)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("use catalogue: %w: %w", context.Cause(ctx), err)
	case errors.As(err, &refused) && refused.Code == diskFull:
		return fmt.Errorf("%w: %w", catalog.ErrFull, err)
	}
	return err
}

// SQLSTATE codes, from appendix A of PostgreSQL's manual.
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	diskFull             = "53100"
)

// retryable says whether the server ended a transaction only because of another.
func retryable(err error) bool {
	refused := (*pgconn.PgError)(nil)
	return errors.As(err, &refused) && (refused.Code == serializationFailure || refused.Code == deadlockDetected)
}

// duplicate says whether err is a violation of the unique constraint or index with this name.
func duplicate(err error, constraint string) bool {
	refused := (*pgconn.PgError)(nil)
	return errors.As(err, &refused) && refused.Code == uniqueViolation && strings.EqualFold(refused.ConstraintName, constraint)
}

// optional makes nothing of a row that is not there.
func optional(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}
