package nixdb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// View is the database as of one moment. It belongs to one goroutine, and to the function that was given it.
type View struct {
	db   *DB
	conn *sqlite.Conn
}

// View calls f with the database as it is now, whatever the daemon writes meanwhile. Looking up many items in one View costs half of
// looking them up one by one. The daemon's log cannot be shortened until f returns, so that what takes long belongs after it; f must
// not call methods of db.
func (db *DB) View(ctx context.Context, f func(*View) error) error {
	return db.read(ctx, func(conn *sqlite.Conn) (err error) {
		defer sqlitex.Transaction(conn)(&err)
		return f(&View{db, conn})
	})
}

// explain is for errors that f keeps to itself.
func (v *View) explain(err error) error {
	if sqlite.ErrCode(err) == sqlite.ResultError {
		return err
	}
	return explain(v.db.path, err)
}

// Edges returns the IDs of what an item references, in no particular order, and the bytes of its nar, or 0 if they are not recorded. Of an
// item that has been collected there is neither.
func (v *View) Edges(id int64) (refs []int64, narSize int64, err error) {
	// One statement for both: each costs more than what it finds.
	err = sqlitex.Execute(v.conn, "SELECT p.narSize, r.reference FROM ValidPaths p LEFT JOIN Refs r ON r.referrer = p.id WHERE p.id = ?1", &sqlitex.ExecOptions{
		Args: []any{id},
		ResultFunc: func(stmt *sqlite.Stmt) error {
			narSize = max(0, stmt.ColumnInt64(0))
			if !stmt.ColumnIsNull(1) {
				refs = append(refs, stmt.ColumnInt64(1))
			}
			return nil
		}})
	if err != nil {
		return nil, 0, fmt.Errorf("read references of valid path %d from %s: %w", id, v.db.path, v.explain(err))
	}
	return refs, narSize, nil
}

// Item returns the item with the given ID. It is ErrNotFound if it has been collected since its ID was learned.
func (db *DB) Item(ctx context.Context, id int64) (it Item, err error) {
	err = db.View(ctx, func(v *View) (err error) {
		it, err = v.Item(id)
		return err
	})
	return it, err
}

// Item returns the item with the given ID. It is ErrNotFound if it has been collected since its ID was learned.
func (v *View) Item(id int64) (Item, error) {
	it, err := v.item(id)
	if err != nil {
		return Item{}, fmt.Errorf("read valid path %d from %s: %w", id, v.db.path, v.explain(err))
	}
	return it, nil
}

func (v *View) item(id int64) (it Item, err error) {
	found := false
	query := "SELECT path, hash, registrationTime, deriver, narSize, " +
		v.db.column("ultimate") + ", " + v.db.column("sigs") + ", " + v.db.column("ca") + " FROM ValidPaths WHERE id = ?1"
	err = sqlitex.Execute(v.conn, query, &sqlitex.ExecOptions{
		Args: []any{id},
		ResultFunc: func(stmt *sqlite.Stmt) (err error) {
			found = true
			it, err = itemOf(stmt)
			return err
		}})
	if err != nil {
		return it, err
	}
	if !found {
		return it, ErrNotFound
	}
	it.ID = id
	err = sqlitex.Execute(v.conn, "SELECT p.path FROM Refs r JOIN ValidPaths p ON p.id = r.reference WHERE r.referrer = ?1",
		&sqlitex.ExecOptions{
			Args: []any{id},
			ResultFunc: func(stmt *sqlite.Stmt) error {
				p, err := storepath.Parse(stmt.ColumnText(0))
				if err != nil {
					return fmt.Errorf("reference of %s: %w", it.Path, err)
				}
				if p.Dir != it.Path.Dir {
					return fmt.Errorf("reference of %s: %s is in another store", it.Path, p)
				}
				it.References = append(it.References, p.Base)
				return nil
			}})
	slices.Sort(it.References) // here rather than in SQL, which would set up a sorter for each item
	return it, err
}

func itemOf(stmt *sqlite.Stmt) (it Item, err error) {
	if it.Path, err = storepath.Parse(stmt.ColumnText(0)); err != nil {
		return Item{}, err
	}
	if it.NarHash, err = digest.Parse(stmt.ColumnText(1)); err != nil {
		return Item{}, fmt.Errorf("%s: %w", it.Path, err)
	}
	it.Registered = time.Unix(stmt.ColumnInt64(2), 0).UTC()
	if deriver := stmt.ColumnText(3); deriver != "" {
		p, err := storepath.Parse(deriver)
		if err != nil {
			return Item{}, fmt.Errorf("deriver of %s: %w", it.Path, err)
		}
		it.Deriver = p.Base
	}
	it.NarSize = max(0, stmt.ColumnInt64(4))
	it.Ultimate = stmt.ColumnInt64(5) != 0
	it.Sigs = strings.Fields(stmt.ColumnText(6))
	it.CA = stmt.ColumnText(7)
	return it, nil
}
