package postgres

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/digest"
)

// FeedOrigin implements catalog.Feed.
func (db *DB) FeedOrigin(ctx context.Context, propose string) (origin string, err error) {
	err = db.write(ctx, begin, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO feed(single, origin) VALUES(true, $1) ON CONFLICT DO NOTHING", propose); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT origin FROM feed").Scan(&origin)
	})
	if err != nil {
		return "", fmt.Errorf("name the feed: %w", err)
	}
	return origin, nil
}

// AppendFeed implements catalog.Feed.
func (db *DB) AppendFeed(ctx context.Context, lines []catalog.FeedLine) error {
	err := db.write(ctx, beginFeeding, func(tx pgx.Tx) error {
		var end int64
		err := tx.QueryRow(ctx, "SELECT greatest((SELECT max(seq) FROM feed_lines), (SELECT max(last) FROM feed_segments), 0)").Scan(&end)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if end++; l.Sequence != end {
				return fmt.Errorf("line %d is in the place of %d: %w", l.Sequence, end, catalog.ErrFeedMoved)
			}
		}
		_, err = tx.Exec(ctx, "INSERT INTO feed_lines(seq, chain, line) SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])",
			column(lines, func(l *catalog.FeedLine) int64 { return l.Sequence }),
			column(lines, func(l *catalog.FeedLine) []byte { return l.Chain[:] }),
			column(lines, func(l *catalog.FeedLine) []byte { return notNull(l.Line) }))
		return err
	})
	if err != nil {
		return fmt.Errorf("append to the feed: %w", err)
	}
	return nil
}

const segmentColumns = "number, last, chain, size, sha256"

func scanSegment(r pgx.CollectableRow) (catalog.FeedSegment, error) { return scanSegmentAnd(r) }

// scanSegmentAnd reads the columns after those of a segment into targets.
func scanSegmentAnd(r pgx.CollectableRow, targets ...any) (f catalog.FeedSegment, err error) {
	var chain, sum []byte
	if err := r.Scan(append([]any{&f.Number, &f.Last, &chain, &f.Size, &sum}, targets...)...); err != nil {
		return f, err
	}
	f.Chain, f.SHA256 = digest.SHA256(chain), digest.SHA256(sum)
	return f, nil
}

// FeedTail implements catalog.Feed.
func (db *DB) FeedTail(ctx context.Context) (last catalog.FeedSegment, lines []catalog.FeedLine, err error) {
	err = db.read(ctx, func(tx pgx.Tx) error {
		answer, err := tx.Query(ctx, "SELECT "+segmentColumns+" FROM feed_segments ORDER BY number DESC LIMIT 1")
		if err != nil {
			return err
		}
		if last, err = pgx.CollectOneRow(answer, scanSegment); optional(err) != nil {
			return err
		}
		if answer, err = tx.Query(ctx, "SELECT seq, chain, line FROM feed_lines ORDER BY seq"); err != nil {
			return err
		}
		lines, err = pgx.CollectRows(answer, func(r pgx.CollectableRow) (l catalog.FeedLine, err error) {
			var chain []byte
			if err := r.Scan(&l.Sequence, &chain, &l.Line); err != nil {
				return l, err
			}
			l.Chain = digest.SHA256(chain)
			return l, nil
		})
		return err
	})
	if err != nil {
		return catalog.FeedSegment{}, nil, fmt.Errorf("read end of the feed: %w", err)
	}
	return last, lines, nil
}

// SealFeed implements catalog.Feed.
func (db *DB) SealFeed(ctx context.Context, segments ...catalog.FeedSegment) error {
	err := db.write(ctx, beginFeeding, func(tx pgx.Tx) error {
		var number, last int64
		if err := tx.QueryRow(ctx, "SELECT coalesce(max(number), 0), coalesce(max(last), 0) FROM feed_segments").Scan(&number, &last); err != nil {
			return err
		}
		for _, f := range segments {
			tag, err := tx.Exec(ctx, "DELETE FROM feed_lines WHERE seq <= $1", f.Last)
			if err != nil {
				return err
			}
			if f.Number != number+1 || f.Last <= last || tag.RowsAffected() != f.Last-last {
				return fmt.Errorf("segment %d: %w", f.Number, catalog.ErrFeedMoved)
			}
			if _, err = tx.Exec(ctx, "INSERT INTO feed_segments("+segmentColumns+") VALUES($1, $2, $3, $4, $5)", f.Number, f.Last, f.Chain[:], f.Size, f.SHA256[:]); err != nil {
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

// FeedSegment implements catalog.Feed.
func (db *DB) FeedSegment(ctx context.Context, number int64) (catalog.FeedSegment, error) {
	found, err := rows(ctx, db, scanSegment, "SELECT "+segmentColumns+" FROM feed_segments WHERE number = $1", number)
	if err == nil && len(found) == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return catalog.FeedSegment{}, fmt.Errorf("read segment %d of the feed: %w", number, err)
	}
	return found[0], nil
}

// FeedSegments implements catalog.Feed.
func (db *DB) FeedSegments(ctx context.Context) iter.Seq2[catalog.FeedSegment, error] {
	return walk("segments of the feed", func(last *catalog.FeedSegment) ([]catalog.FeedSegment, error) {
		from := int64(0)
		if last != nil {
			from = last.Number
		}
		return rows(ctx, db, scanSegment, "SELECT "+segmentColumns+" FROM feed_segments WHERE number > $1 ORDER BY number LIMIT $2", from, page)
	})
}

// FeedPacked implements catalog.Feed.
func (db *DB) FeedPacked(ctx context.Context) (f catalog.FeedSegment, packed []byte, err error) {
	found, err := rows(ctx, db, func(r pgx.CollectableRow) (catalog.FeedSegment, error) {
		return scanSegmentAnd(r, &packed)
	}, "SELECT "+segmentColumns+", packed FROM feed_packed ORDER BY number LIMIT 1")
	if err == nil && len(found) == 0 {
		err = catalog.ErrNotFound
	}
	if err != nil {
		return catalog.FeedSegment{}, nil, fmt.Errorf("read a packed segment of the feed: %w", err)
	}
	return found[0], packed, nil
}

// FeedUnpacked implements catalog.Feed.
func (db *DB) FeedUnpacked(ctx context.Context, number int64) error {
	err := db.write(ctx, beginFeeding, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM feed_packed WHERE number = $1", number)
		return err
	})
	if err != nil {
		return fmt.Errorf("drop packed segment %d of the feed: %w", number, err)
	}
	return nil
}
