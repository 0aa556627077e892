package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/catalog/compact"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// mostNames bounds the memory for names, some 100 bytes for each: 26 MB.
const mostNames = 1 << 18

// itemRow is what a query of itemColumns gives.
type itemRow struct {
	catalog.Item        // without References; its Narinfo is as it is kept, or nil if it is gone
	template     int32  // 0: the narinfo is whole
	refs         []byte // packed, of an item with a template
}

// facts are what items are put together from: templates and names by their numbers, which never change. Only what is committed may be
// remembered, since a number that was handed out in a transaction that came to nothing is handed out again.
type facts struct {
	mu        sync.RWMutex
	template  map[int32]string
	number    map[digest.SHA256]int32 // of templates
	base, old map[int64]storepath.Base
}

func (k *facts) rememberTemplate(id int32, template string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.template == nil {
		k.template, k.number = make(map[int32]string), make(map[digest.SHA256]int32)
	}
	k.template[id], k.number[digest.Of([]byte(template))] = template, id
}

func (k *facts) rememberNames(names map[int64]storepath.Base) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, b := range names {
		if len(k.base) >= mostNames/2 || k.base == nil {
			k.base, k.old = make(map[int64]storepath.Base, 1024), k.base
		}
		k.base[id] = b
	}
}

// known collects what is remembered for a row, and says what is not.
func (k *facts) known(r *itemRow, template map[int32]string, names map[int64]storepath.Base, lackTemplate map[int32]bool, lackName map[int64]bool) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if text, ok := k.template[r.template]; ok {
		template[r.template] = text
	} else {
		lackTemplate[r.template] = true
	}
	return eachReference(r.Sequence, r.refs, func(id int64) {
		b := k.base[id]
		if b == "" {
			b = k.old[id]
		}
		if b == "" {
			lackName[id] = true
			return
		}
		names[id] = b
	})
}

// asker makes a query of what is committed.
type asker func(scan func(pgx.Rows) error, query string, args ...any) error

func (db *DB) asker(ctx context.Context) asker {
	return func(scan func(pgx.Rows) error, query string, args ...any) error {
		return db.ask(ctx, func(conn *pgx.Conn) error {
			answer, err := conn.Query(ctx, query, args...)
			if err != nil {
				return err
			}
			return scan(answer)
		})
	}
}

// items makes a query of itemColumns and puts the items together.
func (db *DB) items(ctx context.Context, query string, args ...any) ([]catalog.Item, error) {
	all, err := rows(ctx, db, scanItem, query, args...)
	if err != nil {
		return nil, err
	}
	if err := db.complete(db.asker(ctx), all); err != nil {
		return nil, err
	}
	return column(all, func(r *itemRow) catalog.Item { return r.Item }), nil
}

// complete puts the narinfos and references of rows together. What it has to ask for, when it does not remember it, is the same at any time
// after the rows were read.
func (db *DB) complete(ask asker, all []itemRow) error {
	template, lackTemplate := make(map[int32]string), make(map[int32]bool)
	names, lackName := make(map[int64]storepath.Base), make(map[int64]bool)
	for i := range all {
		if all[i].template != 0 {
			if err := db.facts.known(&all[i], template, names, lackTemplate, lackName); err != nil {
				return err
			}
		}
	}
	if err := db.askTemplates(ask, template, lackTemplate); err != nil {
		return err
	}
	if err := db.askNames(ask, names, lackName); err != nil {
		return err
	}
	for i := range all {
		if err := all[i].join(template, names); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) askTemplates(ask asker, template map[int32]string, lack map[int32]bool) error {
	if len(lack) == 0 {
		return nil
	}
	ids := make([]int32, 0, len(lack))
	for id := range lack {
		ids = append(ids, id)
	}
	return ask(func(r pgx.Rows) error {
		var (
			id   int32
			text []byte
		)
		_, err := pgx.ForEachRow(r, []any{&id, &text}, func() error {
			template[id] = string(text)
			db.facts.rememberTemplate(id, string(text))
			return nil
		})
		return err
	}, "SELECT id, template FROM templates WHERE id = ANY($1)", ids)
}

// askNames reads the names that items have, or had, under ids: mostly of those that are live.
func (db *DB) askNames(ask asker, names map[int64]storepath.Base, lack map[int64]bool) error {
	found := make(map[int64]storepath.Base, len(lack))
	for _, query := range []string{
		"SELECT id, hash, name FROM items WHERE id = ANY($1)",
		// Of one moment, in which an id is in one of these.
		`SELECT u.id, i.hash, i.name FROM (SELECT u.id, coalesce(f.now, u.id) AS now FROM unnest($1::bigint[]) AS u(id) LEFT JOIN former f ON f.id = u.id) AS u
			CROSS JOIN LATERAL (SELECT hash, name FROM items WHERE id = u.now UNION ALL SELECT hash, name FROM condemned WHERE id = u.now
				UNION ALL SELECT hash, name FROM tombstones WHERE id = u.now LIMIT 1) AS i`,
	} {
		var ids []int64
		for id := range lack {
			if found[id] == "" {
				ids = append(ids, id)
			}
		}
		if len(ids) == 0 {
			break
		}
		if err := ask(scanNames(found), query, ids); err != nil {
			return err
		}
	}
	db.facts.rememberNames(found)
	for id, b := range found {
		names[id] = b
	}
	return nil
}

// join puts an item's narinfo together, and reads its references.
func (r *itemRow) join(template map[int32]string, names map[int64]storepath.Base) error {
	it := &r.Item
	if it.Narinfo == nil {
		return nil
	}
	if r.template == 0 {
		return parseReferences(it)
	}
	text, ok := template[r.template]
	if !ok {
		return fmt.Errorf("%w: %s has template %d, which is not there", catalog.ErrDamaged, it.Path, r.template)
	}
	f := factsOf(it, it.Files)
	lost := int64(0)
	err := eachReference(it.Sequence, r.refs, func(id int64) {
		if names[id] == "" {
			lost = id
		}
		f.References = append(f.References, names[id])
	})
	if err == nil && lost != 0 {
		err = fmt.Errorf("%w: %s references item %d, which is not there", catalog.ErrDamaged, it.Path, lost)
	}
	if err != nil {
		return err
	}
	slices.Sort(f.References)
	if it.Narinfo, err = compact.Join(make([]byte, 0, 700+60*len(f.References)), text, it.Narinfo, f); err != nil {
		return fmt.Errorf("put the narinfo of %s together: %w", it.Path, err)
	}
	if it.References, ok = compact.References(text, f); !ok {
		return parseReferences(it)
	}
	return nil
}

// parseReferences reads the references from the narinfo, which has them in an order of its own.
func parseReferences(it *catalog.Item) error {
	n, err := narinfo.Parse(it.Narinfo)
	if err != nil {
		return fmt.Errorf("read the narinfo kept for %s: %w", it.Path, err)
	}
	it.References = n.References
	return nil
}
