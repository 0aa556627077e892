package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// itemColumns and itemTables read an item with its files as one row, so that it is of one moment without a transaction. The item's
// row is i, and comes before itemTables. A subquery with a limit is asked for each item by itself, however small its table was when
// the query was planned.
const (
	itemColumns = "i.id, i.hash, d.dir, i.name, n.hash, n.size, i.published, i.narinfo, i.template, CASE WHEN i.template <> 0 THEN coalesce((SELECT refs FROM refs WHERE id = i.id), (SELECT refs FROM condemned_refs WHERE id = i.id)) END, f.keys, f.compressions, f.sizes, f.sums, f.verified"
	itemTables  = ` CROSS JOIN LATERAL (SELECT dir FROM dirs WHERE id = i.dir LIMIT 1) AS d CROSS JOIN LATERAL (SELECT hash, size FROM nars WHERE id = i.nar LIMIT 1) AS n CROSS JOIN LATERAL (
		SELECT array_agg(o.key) AS keys, array_agg(o.compression) AS compressions, array_agg(o.size) AS sizes, array_agg(o.sha256) AS sums, array_agg(o.verified) AS verified
		FROM (SELECT * FROM objects WHERE objects.nar = i.nar ORDER BY compression) AS o) AS f `
)

func scanItem(r pgx.CollectableRow) (itemRow, error) { return scanItemAfter(r) }

// scanItemAfter reads the columns before those of an item into targets.
func scanItemAfter(r pgx.CollectableRow, targets ...any) (it itemRow, err error) {
	var (
		hash, nar          []byte
		dir, name          string
		published          int64
		keys, compressions []string
		sums               [][]byte
		sizes, verified    []int64
	)
	if err := r.Scan(append(targets, &it.Sequence, &hash, &dir, &name, &nar, &it.NarSize, &published, &it.Narinfo, &it.template, &it.refs, &keys, &compressions, &sizes, &sums, &verified)...); err != nil {
		return it, err
	}
	it.Path = storepath.Path{Dir: storepath.Dir(dir), Base: baseOf(hash, name)}
	it.NarHash = digest.SHA256(nar)
	it.Published = fromMillis(published)
	for i := range keys {
		it.Files = append(it.Files, catalog.File{Key: objstore.Key(keys[i]), Compression: compress.Method(compressions[i]), Size: sizes[i], SHA256: digest.SHA256(sums[i]), Verified: fromMillis(verified[i])})
	}
	return it, nil
}

// fileColumns are what scanFile reads.
const fileColumns = "o.key, o.compression, o.size, o.sha256, o.verified"

func scanFile(r pgx.CollectableRow) (catalog.File, error) { return scanFileAfter(r) }

func scanFileAfter(r pgx.CollectableRow, targets ...any) (f catalog.File, err error) {
	var (
		key, compression string
		sum              []byte
		verified         int64
	)
	if err := r.Scan(append(targets, &key, &compression, &f.Size, &sum, &verified)...); err != nil {
		return f, err
	}
	f.Key, f.Compression, f.SHA256, f.Verified = objstore.Key(key), compress.Method(compression), digest.SHA256(sum), fromMillis(verified)
	return f, nil
}

// Item implements catalog.Reader.
func (db *DB) Item(ctx context.Context, h storepath.HashPart) (catalog.Item, error) {
	b := h.Bytes()
	found, err := db.items(ctx, "SELECT "+itemColumns+" FROM items i"+itemTables+"WHERE i.hash = $1", b[:])
	switch {
	case err != nil:
		return catalog.Item{}, fmt.Errorf("look up %s: %w", h, err)
	case len(found) == 0:
		return catalog.Item{}, fmt.Errorf("look up %s: %w", h, catalog.ErrNotFound)
	}
	return found[0], nil
}

// Missing implements catalog.Reader.
func (db *DB) Missing(ctx context.Context, hs []storepath.HashPart) (missing []storepath.HashPart, err error) {
	hashes := make([][]byte, len(hs))
	for i, h := range hs {
		b := h.Bytes()
		hashes[i] = b[:]
	}
	found, err := rows(ctx, db, pgx.RowTo[[]byte], "SELECT hash FROM items WHERE hash = ANY($1)", hashes)
	if err != nil {
		return nil, fmt.Errorf("look up %d hash parts: %w", len(hs), err)
	}
	live := make(map[hashPart]bool, len(found))
	for _, h := range found {
		live[hashPart(h)] = true
	}
	for i, h := range hs {
		if !live[hashPart(hashes[i])] {
			missing = append(missing, h)
		}
	}
	return missing, nil
}

// Files implements catalog.Reader.
func (db *DB) Files(ctx context.Context, narHashes []digest.SHA256) ([][]catalog.File, error) {
	type fileOf struct {
		nar digest.SHA256
		catalog.File
	}
	found, err := rows(ctx, db, func(r pgx.CollectableRow) (f fileOf, err error) {
		var nar []byte
		if f.File, err = scanFileAfter(r, &nar); err == nil {
			f.nar = digest.SHA256(nar)
		}
		return f, err
	}, "SELECT n.hash, "+fileColumns+" FROM nars n CROSS JOIN LATERAL (SELECT * FROM objects WHERE nar = n.id OFFSET 0) AS o WHERE n.hash = ANY($1) AND n.state = 0 AND n.state < 2 ORDER BY o.compression",
		column(narHashes, func(h *digest.SHA256) []byte { return h[:] }))
	if err != nil {
		return nil, fmt.Errorf("look up files of %d nars: %w", len(narHashes), err)
	}
	byNar := make(map[digest.SHA256][]catalog.File, len(narHashes))
	for _, f := range found {
		byNar[f.nar] = append(byNar[f.nar], f.File)
	}
	all := make([][]catalog.File, len(narHashes))
	for i, h := range narHashes {
		all[i] = byNar[h]
	}
	return all, nil
}

// page is how many rows a walk reads at a time, so that a slow consumer holds no snapshot, and with it what vacuum would clean up.
const page = 1000

// walk yields what read gives, page after page, until a page is not full.
func walk[T any](what string, read func(last *T) ([]T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var last *T
		for {
			all, err := read(last)
			if err != nil {
				var zero T
				yield(zero, fmt.Errorf("walk %s: %w", what, err))
				return
			}
			for i := range all {
				if !yield(all[i], nil) {
					return
				}
			}
			if len(all) < page {
				return
			}
			last = &all[len(all)-1]
		}
	}
}

// Items implements catalog.Reader.
func (db *DB) Items(ctx context.Context, after int64) iter.Seq2[catalog.Item, error] {
	return walk("items", func(last *catalog.Item) ([]catalog.Item, error) {
		from := after
		if last != nil {
			from = last.Sequence
		}
		return db.items(ctx, "SELECT "+itemColumns+" FROM (SELECT * FROM items WHERE id > $1 ORDER BY id LIMIT $2) AS i"+itemTables+"ORDER BY i.id", from, page)
	})
}

// EachHashPart implements catalog.Reader.
func (db *DB) EachHashPart(ctx context.Context, after int64, f func([20]byte)) (last int64, err error) {
	// Without sequences the index of the hashes is enough, which has nothing else in it; the rows are fifty times as wide.
	query, args := "SELECT hash FROM items", []any{wholeTable}
	if after != 0 {
		query, args = "SELECT hash FROM items WHERE id > $1", []any{wholeTable, after}
	}
	called := false
	err = db.read(ctx, func(tx pgx.Tx) error {
		if called {
			return errors.New("the connection was lost on the way")
		}
		if err := tx.QueryRow(ctx, "SELECT coalesce(max(id), 0) FROM items").Scan(&last); err != nil {
			return err
		}
		answer, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		var hash []byte
		_, err = pgx.ForEachRow(answer, []any{&hash}, func() error {
			called = true
			f([20]byte(hash))
			return nil
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("walk hash parts: %w", err)
	}
	return max(last, after), nil
}

// Counts implements catalog.Reader.
func (db *DB) Counts(ctx context.Context) (c catalog.Counts, err error) {
	err = db.read(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM waiting), n.count, n.sum, o.count, o.sum, (SELECT count(*) FROM objects WHERE state < 2)
			FROM (SELECT count(*), coalesce(sum(size), 0)::bigint AS sum FROM nars WHERE state = 0) AS n, (SELECT count(*), coalesce(sum(size), 0)::bigint AS sum FROM objects WHERE state = 2) AS o`, wholeTable).
			Scan(&c.Items, &c.Waiting, &c.Nars, &c.NarBytes, &c.Files, &c.Bytes, &c.Uploads)
		if err != nil {
			return err
		}
		answer, err := tx.Query(ctx, "SELECT d.dir, i.count FROM (SELECT dir, count(*) FROM items GROUP BY dir) AS i JOIN dirs d ON d.id = i.dir", wholeTable)
		if err != nil {
			return err
		}
		var (
			dir   string
			count int64
		)
		c.Dirs = make(map[storepath.Dir]int64)
		_, err = pgx.ForEachRow(answer, []any{&dir, &count}, func() error {
			c.Dirs[storepath.Dir(dir)] = count
			return nil
		})
		return err
	})
	if err != nil {
		return catalog.Counts{}, fmt.Errorf("count the catalogue: %w", err)
	}
	return c, nil
}
