package sqlite

import (
	"context"
	"fmt"
	"iter"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
)

// FeedOrigin implements catalog.Feed.
func (db *DB) FeedOrigin(ctx context.Context, propose string) (origin string, err error) {
	err = db.write(ctx, func(conn *sqlite.Conn) error {
		if err := sqlitex.Execute(conn, "INSERT OR IGNORE INTO feed(only, origin) VALUES(1, ?)", &sqlitex.ExecOptions{Args: []any{propose}}); err != nil {
			return err
		}
		return sqlitex.Execute(conn, "SELECT origin FROM feed", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			origin = s.ColumnText(0)
			return nil
		}})
	})
	if err != nil {
		return "", fmt.Errorf("name the feed: %w", err)
	}
	return origin, nil
}

// Changes implements catalog.Feed.
func (db *DB) Changes(ctx context.Context, after int64, limit int) (changes []catalog.Change, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		var ids []int64
		err := sqlitex.Execute(conn, "SELECT seq, op, at, item FROM changes WHERE seq > ? ORDER BY seq LIMIT ?", &sqlitex.ExecOptions{Args: []any{after, limit},
			ResultFunc: func(s *sqlite.Stmt) error {
				changes = append(changes, catalog.Change{Sequence: s.ColumnInt64(0), Kind: catalog.ChangeKind(s.ColumnInt64(1)), At: fromMillis(s.ColumnInt64(2))})
				ids = append(ids, s.ColumnInt64(3))
				return nil
			}})
		if err != nil {
			return err
		}
		for i := range changes {
			if changes[i].Item, changes[i].State, err = db.changed(conn, ids[i]); err != nil {
				return fmt.Errorf("item of change %d: %w", changes[i].Sequence, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read changes after %d: %w", after, err)
	}
	return changes, nil
}

const feedEnd = "SELECT max(coalesce((SELECT max(seq) FROM feed_lines), 0), coalesce((SELECT max(last) FROM feed_segments), 0))"

// AppendFeed implements catalog.Feed.
func (db *DB) AppendFeed(ctx context.Context, lines []catalog.FeedLine) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		end, err := scalar(conn, feedEnd)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if end++; l.Sequence != end {
				return fmt.Errorf("line %d is in the place of %d: %w", l.Sequence, end, catalog.ErrFeedMoved)
			}
			err := sqlitex.Execute(conn, "INSERT INTO feed_lines(seq, chain, line) VALUES(?, ?, ?)", &sqlitex.ExecOptions{Args: []any{l.Sequence, l.Chain[:], l.Line}})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("append to the feed: %w", err)
	}
	return nil
}

const selectSegment = "SELECT number, last, chain, size, sha256 FROM feed_segments "

func scanSegment(s *sqlite.Stmt) (f catalog.FeedSegment) {
	f.Number, f.Last, f.Size = s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(3)
	s.ColumnBytes(2, f.Chain[:])
	s.ColumnBytes(4, f.SHA256[:])
	return f
}

// FeedTail implements catalog.Feed.
func (db *DB) FeedTail(ctx context.Context) (last catalog.FeedSegment, lines []catalog.FeedLine, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		err := sqlitex.Execute(conn, selectSegment+"ORDER BY number DESC LIMIT 1", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			last = scanSegment(s)
			return nil
		}})
		if err != nil {
			return err
		}
		return sqlitex.Execute(conn, "SELECT seq, chain, line FROM feed_lines ORDER BY seq", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			l := catalog.FeedLine{Sequence: s.ColumnInt64(0), Line: columnBytes(s, 2)}
			s.ColumnBytes(1, l.Chain[:])
			lines = append(lines, l)
			return nil
		}})
	})
	if err != nil {
		return catalog.FeedSegment{}, nil, fmt.Errorf("read end of the feed: %w", err)
	}
	return last, lines, nil
}

// SealFeed implements catalog.Feed.
func (db *DB) SealFeed(ctx context.Context, segments ...catalog.FeedSegment) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		var number, last int64
		err := sqlitex.Execute(conn, "SELECT coalesce(max(number), 0), coalesce(max(last), 0) FROM feed_segments", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			number, last = s.ColumnInt64(0), s.ColumnInt64(1)
			return nil
		}})
		if err != nil {
			return err
		}
		for _, f := range segments {
			if err := sqlitex.Execute(conn, "DELETE FROM feed_lines WHERE seq <= ?", &sqlitex.ExecOptions{Args: []any{f.Last}}); err != nil {
				return err
			}
			if f.Number != number+1 || f.Last <= last || int64(conn.Changes()) != f.Last-last {
				return fmt.Errorf("segment %d: %w", f.Number, catalog.ErrFeedMoved)
			}
			if err := insertSegment(conn, f); err != nil {
				return err
			}
			number, last = f.Number, f.Last
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("seal segments of the feed: %w", err)
	}
	return nil
}

func insertSegment(conn *sqlite.Conn, f catalog.FeedSegment) error {
	return sqlitex.Execute(conn, "INSERT INTO feed_segments(number, last, chain, size, sha256) VALUES(?, ?, ?, ?, ?)",
		&sqlitex.ExecOptions{Args: []any{f.Number, f.Last, f.Chain[:], f.Size, f.SHA256[:]}})
}

// FeedSegment implements catalog.Feed.
func (db *DB) FeedSegment(ctx context.Context, number int64) (f catalog.FeedSegment, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, selectSegment+"WHERE number = ?", &sqlitex.ExecOptions{Args: []any{number},
			ResultFunc: func(s *sqlite.Stmt) error {
				f = scanSegment(s)
				return nil
			}})
	})
	if err == nil && f.Number == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return catalog.FeedSegment{}, fmt.Errorf("read segment %d of the feed: %w", number, err)
	}
	return f, nil
}

// FeedSegments implements catalog.Feed.
func (db *DB) FeedSegments(ctx context.Context) iter.Seq2[catalog.FeedSegment, error] {
	return walk(ctx, db, "segments of the feed", func(conn *sqlite.Conn, last *catalog.FeedSegment) (fs []catalog.FeedSegment, err error) {
		from := int64(0)
		if last != nil {
			from = last.Number
		}
		err = sqlitex.Execute(conn, selectSegment+"WHERE number > ? ORDER BY number LIMIT ?", &sqlitex.ExecOptions{Args: []any{from, page}, ResultFunc: func(s *sqlite.Stmt) error {
			fs = append(fs, scanSegment(s))
			return nil
		}})
		return fs, err
	})
}

// FeedPacked implements catalog.Feed.
func (db *DB) FeedPacked(ctx context.Context) (f catalog.FeedSegment, packed []byte, err error) {
	err = db.read(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "SELECT number, last, chain, size, sha256, packed FROM feed_packed ORDER BY number LIMIT 1", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			f, packed = scanSegment(s), columnBytes(s, 5)
			return nil
		}})
	})
	if err == nil && f.Number == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return catalog.FeedSegment{}, nil, fmt.Errorf("read a packed segment of the feed: %w", err)
	}
	return f, packed, nil
}

// FeedUnpacked implements catalog.Feed.
func (db *DB) FeedUnpacked(ctx context.Context, number int64) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		return sqlitex.Execute(conn, "DELETE FROM feed_packed WHERE number = ?", &sqlitex.ExecOptions{Args: []any{number}})
	})
	if err != nil {
		return fmt.Errorf("drop packed segment %d of the feed: %w", number, err)
	}
	return nil
}

// AdoptFeed gives a catalogue that Build has made the feed that its items were told in, which goes on where it ended: the catalogue must
// not have had a feed, and what it counts as changes until now are records of it.
func (db *DB) AdoptFeed(ctx context.Context, origin string, segments iter.Seq2[catalog.FeedSegment, error], tail []catalog.FeedLine) error {
	err := db.write(ctx, func(conn *sqlite.Conn) error {
		if n, err := scalar(conn, "SELECT (SELECT count(*) FROM feed) + (SELECT count(*) FROM feed_lines) + (SELECT count(*) FROM feed_segments) + (SELECT count(*) FROM feed_packed)"); err != nil {
			return err
		} else if n > 0 {
			return catalog.ErrPresent
		}
		if err := sqlitex.Execute(conn, "INSERT INTO feed(only, origin) VALUES(1, ?)", &sqlitex.ExecOptions{Args: []any{origin}}); err != nil {
			return err
		}
		for f, err := range segments {
			if err != nil {
				return err
			}
			if err := insertSegment(conn, f); err != nil {
				return err
			}
		}
		for _, l := range tail {
			err := sqlitex.Execute(conn, "INSERT INTO feed_lines(seq, chain, line) VALUES(?, ?, ?)", &sqlitex.ExecOptions{Args: []any{l.Sequence, l.Chain[:], l.Line}})
			if err != nil {
				return err
			}
		}
		end, err := scalar(conn, feedEnd)
		if err != nil {
			return err
		}
		for _, q := range []string{"DELETE FROM changes", "DELETE FROM sqlite_sequence WHERE name = 'changes'"} {
			if err := sqlitex.Execute(conn, q, nil); err != nil {
				return err
			}
		}
		return sqlitex.Execute(conn, "INSERT INTO sqlite_sequence(name, seq) VALUES('changes', ?)", &sqlitex.ExecOptions{Args: []any{end}})
	})
	if err != nil {
		return fmt.Errorf("adopt feed %s: %w", origin, err)
	}
	return nil
}
