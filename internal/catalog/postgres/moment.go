package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
)

// mostWishes bounds what is remembered for collectors. When there are more, all decisions until then are refused, and nothing is
// remembered until a collector takes another moment.
const mostWishes = 100_000

// Moment implements catalog.Collector. Its Wish is the number of the moment, which what is asked for afterwards is remembered with: so
// that those who ask need not wait for each other, for a number of their own.
func (db *DB) Moment(ctx context.Context) (m catalog.Moment, err error) {
	// Alone, so that whoever asks has either been answered before, or knows that it is to be remembered.
	err = db.inTurn(ctx, beginWithdrawing, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "UPDATE moment SET taken = taken + 1, watched = true RETURNING (SELECT item FROM narfold_catalogue), taken, roots + 1").Scan(&m.Item, &m.Wish, &m.Roots)
	})
	if err != nil {
		return catalog.Moment{}, fmt.Errorf("take a moment of the catalogue: %w", err)
	}
	return m, nil
}

// RootsChanged implements catalog.Collector. It waits for who withdraws and holds the row, so that what is withdrawn after it returns was
// decided after it.
func (db *DB) RootsChanged(ctx context.Context) error {
	err := db.write(ctx, begin, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE moment SET roots = roots + 1")
		return err
	})
	if err != nil {
		return fmt.Errorf("note that roots have changed: %w", err)
	}
	return nil
}

// queueWishes notes that somebody was told that items are there, if a collector is deciding. Nothing is written otherwise.
func queueWishes(b *pgx.Batch, items []int64) {
	if len(items) == 0 {
		return
	}
	items = slices.Clone(items)
	slices.Sort(items)
	items = slices.Compact(items)
	// Who has the row of moment may write the others.
	b.Queue(`WITH m AS (UPDATE moment SET (wished, forgotten, watched) = (SELECT CASE WHEN more THEN 0 ELSE wished + $2 END, CASE WHEN more THEN taken ELSE forgotten END, NOT more
			FROM (SELECT wished + $2 > $3 AS more) AS s) WHERE watched RETURNING taken, watched)
		INSERT INTO wishes(item, taken) SELECT u.item, m.taken FROM m, unnest($1::bigint[]) AS u(item) WHERE m.watched ON CONFLICT (item) DO UPDATE SET taken = excluded.taken`,
		items, int64(len(items)), int64(mostWishes))
	b.Queue("DELETE FROM wishes WHERE NOT (SELECT watched FROM moment)")
}

// decided is what a decision is compared with.
type decided struct{ taken, roots, forgotten int64 }

// since refuses a decision of a moment after which more than items has changed.
func (d decided) since(m catalog.Moment) error {
	switch {
	case m == (catalog.Moment{}):
		return nil
	case m.Roots != d.roots+1:
		return fmt.Errorf("%w: roots have changed", catalog.ErrMoved)
	case m.Wish <= d.forgotten:
		return fmt.Errorf("%w: more was asked for than is remembered", catalog.ErrMoved)
	}
	return nil
}
