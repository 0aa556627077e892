package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/catalog/compact"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// templates is the fourth schema. What is there already stays whole.
const templates = `
-- What narinfos have in common, see package compact. An item with template 0 has its narinfo whole, others what is the narinfo's own.
CREATE TABLE templates(id integer PRIMARY KEY, sum bytea NOT NULL UNIQUE CHECK (octet_length(sum) = 32), template bytea NOT NULL);
ALTER TABLE items ADD COLUMN template integer NOT NULL DEFAULT 0;
ALTER TABLE condemned ADD COLUMN template integer NOT NULL DEFAULT 0;
`

// mostTemplates bounds the table of templates. A source of narinfos that are all different in form gets none from then on, and keeps
// its narinfos whole.
const mostTemplates = 10_000

// split is what compact.Split returned.
type split struct {
	template string
	own      []byte
	ok       bool
}

// splitWith divides the narinfo of an item that has these files.
func splitWith(it *catalog.Item, files []catalog.File) (s split) {
	f := factsOf(it, files)
	for _, r := range it.References {
		if r != it.Path.Base {
			f.References = append(f.References, r)
		}
	}
	slices.Sort(f.References)
	f.References = slices.Compact(f.References)
	s.template, s.own, s.ok = compact.Split(it.Narinfo, f)
	return s
}

// factsOf returns what is known of an item without its narinfo, but for the references.
func factsOf(it *catalog.Item, files []catalog.File) compact.Facts {
	f := compact.Facts{Path: it.Path, NarHash: it.NarHash, NarSize: it.NarSize, Files: make([]compact.File, len(files))}
	for i, file := range files {
		f.Files[i] = compact.File{Compression: file.Compression, Size: file.Size, SHA256: file.SHA256}
	}
	return f
}

// splitOf returns the split of a publication's narinfo with the files that its nar has now: mostly the one that was made before anybody
// waited. A narinfo that calls a reference by another name than the item has is kept whole: it would come back with that.
func (t *publishing) splitOf(e *entry, n *nar, added int) split {
	for i, r := range e.refs {
		if t.base[r] != e.need[i] {
			return split{}
		}
	}
	if added == len(e.Files) && added == len(n.files) {
		return e.split
	}
	files := make([]catalog.File, 0, len(n.files))
	for _, f := range n.files {
		files = append(files, f)
	}
	return splitWith(&e.Item, files)
}

// numberTemplates gives the new items' templates numbers: those that they have, or new ones.
func (t *publishing) numberTemplates(ctx context.Context, tx pgx.Tx, k *facts) error {
	number := make(map[string]int32)
	var ask []string
	k.mu.RLock()
	for i := range t.newItems {
		s := &t.newItems[i].split
		if _, seen := number[s.template]; !s.ok || seen {
			continue
		}
		id := k.number[digest.Of([]byte(s.template))]
		if number[s.template] = id; id == 0 {
			ask = append(ask, s.template)
		}
	}
	k.mu.RUnlock()
	if len(ask) > 0 {
		answer, err := tx.Query(ctx, "SELECT id, template FROM templates WHERE sum = ANY($1)", column(ask, sumOf))
		if err != nil {
			return err
		}
		var (
			id   int32
			text []byte
		)
		_, err = pgx.ForEachRow(answer, []any{&id, &text}, func() error {
			number[string(text)] = id
			return nil
		})
		if err != nil {
			return err
		}
		for _, text := range ask {
			if number[text] == 0 && t.templates < mostTemplates {
				t.templates++
				number[text] = t.templates
				t.newTemplates = append(t.newTemplates, newTemplate{t.templates, text})
			}
		}
	}
	for i := range t.newItems {
		n := &t.newItems[i]
		if n.split.ok {
			n.template = number[n.split.template]
		}
	}
	return nil
}

// committed remembers what is certain now, for those who look up what was just published.
func (t *publishing) committed(k *facts) {
	for _, n := range t.newTemplates {
		k.rememberTemplate(n.id, n.text)
	}
	names := make(map[int64]storepath.Base, len(t.newItems))
	for i := range t.newItems {
		names[t.newItems[i].id] = t.newItems[i].Path.Base
	}
	k.rememberNames(names)
}

func sumOf(text *string) []byte { sum := digest.Of([]byte(*text)); return sum[:] }

// kept returns the form in which an item's narinfo is kept.
func (n *newItem) kept() []byte {
	if n.template != 0 {
		return notNull(n.split.own)
	}
	return notNull(n.Narinfo)
}

// keepWhole keeps the narinfos of items with a nar as they are, for when the files change from which they are put together.
func (db *DB) keepWhole(ctx context.Context, tx pgx.Tx, nar int64) error {
	ask := func(scan func(pgx.Rows) error, query string, args ...any) error {
		answer, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		return scan(answer)
	}
	for _, table := range []string{"items", "condemned"} {
		where := "WHERE i.nar = $1 AND i.template <> 0"
		if table == "condemned" {
			where += " AND i.deleting = 0"
		}
		var all []itemRow
		err := ask(func(r pgx.Rows) (err error) {
			all, err = pgx.CollectRows(r, scanItem)
			return err
		}, "SELECT "+itemColumns+" FROM "+table+" i"+itemTables+where, nar)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			continue
		}
		if err := db.complete(ask, all); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE "+table+" i SET template = 0, narinfo = u.narinfo FROM unnest($1::bigint[], $2::bytea[]) AS u(id, narinfo) WHERE i.id = u.id",
			column(all, func(r *itemRow) int64 { return r.Sequence }), column(all, func(r *itemRow) []byte { return r.Narinfo }))
		if err != nil {
			return err
		}
	}
	return nil
}

// notNull makes empty bytes of none, which would be NULL.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
