package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
)

// changedItems has the rows of changes with the item that each is of now, under the id that it had at the change or under a later one, with
// its state. What is gone has neither narinfo nor files.
const changedItems = `WITH c AS MATERIALIZED (SELECT c.seq, c.op, c.at, coalesce((SELECT now FROM former WHERE former.id = c.item), c.item) AS item
		FROM (SELECT * FROM changes WHERE seq > $1 ORDER BY seq LIMIT $2) AS c)
	SELECT c.seq, c.op, c.at, i.state, ` + itemColumns + ` FROM c CROSS JOIN LATERAL (
		SELECT id, hash, dir, name, nar, published, narinfo, template, 0 AS state FROM items WHERE id = c.item
		UNION ALL SELECT id, hash, dir, name, nar, published, CASE WHEN deleting = 0 THEN narinfo END, CASE WHEN deleting = 0 THEN template ELSE 0 END, CASE WHEN deleting = 0 THEN 1 ELSE 2 END FROM condemned WHERE id = c.item LIMIT 1) AS i` + itemTables + `
	UNION ALL SELECT c.seq, c.op, c.at, 3, t.id, t.hash, d.dir, t.name, t.nar_hash, t.nar_size, 0, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL
		FROM c CROSS JOIN LATERAL (SELECT * FROM tombstones WHERE id = c.item LIMIT 1) AS t CROSS JOIN LATERAL (SELECT dir FROM dirs WHERE id = t.dir LIMIT 1) AS d
	ORDER BY 1`

type changeRow struct {
	itemRow
	change catalog.Change
}

// Changes implements catalog.Feed.
func (db *DB) Changes(ctx context.Context, after int64, limit int) ([]catalog.Change, error) {
	changes := []catalog.Change{}
	found, err := rows(ctx, db, func(r pgx.CollectableRow) (row changeRow, err error) {
		var (
			kind  int16
			at    int64
			state int32
		)
		row.itemRow, err = scanItemAfter(r, &row.change.Sequence, &kind, &at, &state)
		row.change.Kind, row.change.At, row.change.State = catalog.ChangeKind(kind), fromMillis(at), catalog.State(state)
		return row, err
	}, changedItems, after, limit)
	if err == nil {
		items := column(found, func(r *changeRow) itemRow { return r.itemRow })
		err = db.complete(db.asker(ctx), items)
		for i, r := range found {
			c := r.change
			if c.Item = items[i].Item; c.State >= catalog.StateDeleting {
				c.Item = catalog.Item{Path: c.Item.Path, NarHash: c.Item.NarHash, NarSize: c.Item.NarSize, Sequence: c.Item.Sequence}
			}
			changes = append(changes, c)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read changes after %d: %w", after, err)
	}
	// The numbers are without gaps, so a change that is not there has no item.
	for i, c := range changes {
		if want := after + 1 + int64(i); c.Sequence != want {
			return nil, fmt.Errorf("read changes after %d: item of change %d: %w", after, want, catalog.ErrNotFound)
		}
	}
	return changes, nil
}
