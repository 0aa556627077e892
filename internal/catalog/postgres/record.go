package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// What a publishing transaction changes, as rows.
type (
	newNar struct {
		id   int64
		hash digest.SHA256
		size int64
	}
	newFile struct {
		nar int64
		catalog.File
	}
	newItem struct {
		id, nar int64
		dir     int32
		refs    []byte
		split
		template int32
		*entry
	}
	newTemplate struct {
		id   int32
		text string
	}
	newChange struct {
		seq  int64
		kind catalog.ChangeKind
		item int64
	}
	difference struct {
		hash        hashPart
		other, live digest.SHA256
		path, by    string
	}
)

// record writes all that was decided, in one round trip.
func (t *publishing) record(ctx context.Context, tx pgx.Tx) error {
	b := &pgx.Batch{}
	if len(t.forgotten) > 0 {
		t.queueForgotten(b)
	}
	if len(t.newNars) > 0 {
		b.Queue("INSERT INTO nars(id, hash, size) SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[])",
			column(t.newNars, func(n *newNar) int64 { return n.id }),
			column(t.newNars, func(n *newNar) []byte { return n.hash[:] }),
			column(t.newNars, func(n *newNar) int64 { return n.size }))
	}
	t.queueRevivedNars(b)
	if len(t.newUploads) > 0 {
		// A key that is spent can only be cleaned up.
		b.Queue(`INSERT INTO objects(key, state, since) SELECT key, EXISTS (SELECT 1 FROM spent s WHERE s.key = split_part(u.key, ';', 1) AND s.generation >= u.generation)::integer, $1
			FROM unnest($2::text[], $3::bigint[]) AS u(key, generation) ON CONFLICT DO NOTHING`, t.now, texts(t.newUploads), column(t.newUploads, generation))
	}
	if len(t.newFiles) > 0 {
		b.Queue(`UPDATE objects o SET state = 2, item = '', since = $1, nar = u.nar, compression = u.compression, size = u.size, sha256 = u.sha256, verified = u.verified
			FROM unnest($2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bytea[], $7::bigint[]) AS u(key, nar, compression, size, sha256, verified) WHERE o.key = u.key AND o.state + 0 = 0`, t.now, // by the key: an index of uploads alone may be thought empty, and read whole
			column(t.newFiles, func(f *newFile) string { return string(f.Key) }),
			column(t.newFiles, func(f *newFile) int64 { return f.nar }),
			column(t.newFiles, func(f *newFile) string { return string(f.Compression) }),
			column(t.newFiles, func(f *newFile) int64 { return f.Size }),
			column(t.newFiles, func(f *newFile) []byte { return f.SHA256[:] }),
			column(t.newFiles, func(f *newFile) int64 { return millis(f.Verified) })).Exec(func(tag pgconn.CommandTag) error {
			// They were locked; one that this transaction made an upload may have been taken by another in between.
			if tag.RowsAffected() != int64(len(t.newFiles)) {
				return fmt.Errorf("%w: %d of %d keys", catalog.ErrNotReserved, int64(len(t.newFiles))-tag.RowsAffected(), len(t.newFiles))
			}
			return nil
		})
	}
	if len(t.newTemplates) > 0 {
		b.Queue("INSERT INTO templates(id, sum, template) SELECT * FROM unnest($1::integer[], $2::bytea[], $3::bytea[])",
			column(t.newTemplates, func(n *newTemplate) int32 { return n.id }),
			column(t.newTemplates, func(n *newTemplate) []byte { return sumOf(&n.text) }),
			column(t.newTemplates, func(n *newTemplate) []byte { return []byte(n.text) }))
	}
	if len(t.newDirs) > 0 {
		b.Queue("INSERT INTO dirs(id, dir) SELECT * FROM unnest($1::integer[], $2::text[])",
			column(t.newDirs, func(d *storepath.Dir) int32 { return t.dirs[*d] }), texts(t.newDirs))
	}
	t.queueRevived(b)
	if len(t.newItems) > 0 {
		ids := column(t.newItems, func(i *newItem) int64 { return i.id })
		b.Queue(`INSERT INTO items(id, hash, dir, name, nar, published, by, narinfo, template) SELECT id, hash, dir, name, nar, $1, by, narinfo, template
			FROM unnest($2::bigint[], $3::bytea[], $4::integer[], $5::text[], $6::bigint[], $7::text[], $8::bytea[], $9::integer[]) AS u(id, hash, dir, name, nar, by, narinfo, template)`, t.now, ids,
			column(t.newItems, func(i *newItem) []byte { return i.hash[:] }),
			column(t.newItems, func(i *newItem) int32 { return i.dir }),
			column(t.newItems, func(i *newItem) string { return i.Path.Name() }),
			column(t.newItems, func(i *newItem) int64 { return i.nar }),
			column(t.newItems, func(i *newItem) string { return i.By }),
			column(t.newItems, (*newItem).kept),
			column(t.newItems, func(i *newItem) int32 { return i.template }))
		b.Queue("INSERT INTO refs(id, refs) SELECT * FROM unnest($1::bigint[], $2::bytea[])", ids, column(t.newItems, func(i *newItem) []byte { return i.refs }))
	}
	if len(t.newChanges) > 0 {
		b.Queue("INSERT INTO changes(seq, op, item, at) SELECT seq, op, item, $1 FROM unnest($2::bigint[], $3::smallint[], $4::bigint[]) AS u(seq, op, item)", t.now,
			column(t.newChanges, func(c *newChange) int64 { return c.seq }),
			column(t.newChanges, func(c *newChange) int16 { return int16(c.kind) }),
			column(t.newChanges, func(c *newChange) int64 { return c.item }))
		b.Queue("UPDATE narfold_catalogue SET item = $1, nar = $2, change = $3", t.items, t.nars, t.changes)
	}
	if len(t.differences) > 0 {
		b.Queue(`INSERT INTO differences(hash, other, live, path, by, seen) SELECT hash, other, live, path, by, $1
			FROM unnest($2::bytea[], $3::bytea[], $4::bytea[], $5::text[], $6::text[]) AS u(hash, other, live, path, by) ON CONFLICT DO NOTHING`, t.now,
			column(t.differences, func(d *difference) []byte { return d.hash[:] }),
			column(t.differences, func(d *difference) []byte { return d.other[:] }),
			column(t.differences, func(d *difference) []byte { return d.live[:] }),
			column(t.differences, func(d *difference) string { return d.path }),
			column(t.differences, func(d *difference) string { return d.by }))
	}
	if err := t.queueKept(b); err != nil {
		return err
	}
	queueWishes(b, t.wishes)
	if b.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("record %d items: %w", len(t.newItems), err)
	}
	return nil
}

// queueForgotten ends the waiting of items, and of others for those that are published.
func (t *publishing) queueForgotten(b *pgx.Batch) {
	hashes := column(t.forgotten, func(h *hashPart) []byte { return h[:] })
	published := column(t.publishedHashes, func(h *hashPart) []byte { return h[:] })
	b.Queue("DELETE FROM waiting_for WHERE hash = ANY($1)", hashes)
	b.Queue("DELETE FROM waiting_for WHERE missing = ANY($1)", published)
	b.Queue("DELETE FROM waiting WHERE hash = ANY($1)", hashes)
	b.Queue("UPDATE objects SET item = '' WHERE item <> '' AND left(item, 32) = ANY($1)",
		column(t.forgotten, func(h *hashPart) string { return string(storepath.HashPartOf(*h)) }))
}

// queueKept has those items recorded that wait from now on.
func (t *publishing) queueKept(b *pgx.Batch) error {
	if len(t.kept) == 0 {
		return nil
	}
	var (
		hashes, blobs, missing, by [][]byte
		paths, keys, items         []string
	)
	for hash, e := range t.kept {
		blob, err := json.Marshal(e.Publication)
		if err != nil {
			return fmt.Errorf("keep %s waiting: %w", e.Path, err)
		}
		hashes, paths, blobs = append(hashes, hash[:]), append(paths, e.Path.String()), append(blobs, blob)
		for i := range e.refs {
			if r := &e.refs[i]; !t.canBe(*r) {
				missing, by = append(missing, r[:]), append(by, e.hash[:])
			}
		}
	}
	for k, item := range t.held {
		keys, items = append(keys, string(k)), append(items, string(item))
	}
	b.Queue("INSERT INTO waiting(hash, path, since, publication) SELECT hash, path, $1, publication FROM unnest($2::bytea[], $3::text[], $4::bytea[]) AS u(hash, path, publication)", t.now, hashes, paths, blobs)
	b.Queue("INSERT INTO waiting_for(missing, hash) SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT DO NOTHING", missing, by)
	b.Queue("UPDATE objects o SET item = u.item FROM unnest($1::text[], $2::text[]) AS u(key, item) WHERE o.key = u.key", keys, items)
	return nil
}

// generation returns the number of a key's generation.
func generation(k *objstore.Key) int64 {
	_, _, n, err := catalog.ParseNarKey(*k)
	if err != nil {
		return math.MaxInt64 // no key of this form is ever spent
	}
	return int64(n)
}

// column returns one field of all rows, the form in which many rows are one parameter each.
func column[T, V any](rows []T, field func(*T) V) []V {
	all := make([]V, len(rows))
	for i := range rows {
		all[i] = field(&rows[i])
	}
	return all
}
