package sqlite

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/catalog/compact"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// itemRow is what the tables have of an item.
type itemRow struct {
	item     catalog.Item // without References, Narinfo and Files
	nar      int64
	dir      int64
	template int64 // 0: own is the narinfo
	own      []byte
	refs     []byte
}

const selectItem = `SELECT items.id, items.hash, items.dir, items.name, nars.hash, nars.size, items.published, items.nar, items.template, items.narinfo, refs.refs
	FROM items JOIN nars ON nars.id = items.nar JOIN refs ON refs.id = items.id `

func scanItem(s *sqlite.Stmt) (r itemRow) {
	it := &r.item
	it.Sequence = s.ColumnInt64(0)
	var hash [20]byte
	s.ColumnBytes(1, hash[:])
	r.dir = s.ColumnInt64(2)
	it.Path.Base = base(hash[:], s.ColumnText(3))
	s.ColumnBytes(4, it.NarHash[:])
	it.NarSize = s.ColumnInt64(5)
	it.Published = fromMillis(s.ColumnInt64(6))
	r.nar, r.template = s.ColumnInt64(7), s.ColumnInt64(8)
	r.own, r.refs = columnBytes(s, 9), columnBytes(s, 10)
	return r
}

// one reads the item that where names, or reports that there is none.
func (db *DB) one(conn *sqlite.Conn, where string, args ...any) (it catalog.Item, found bool, err error) {
	var r itemRow
	err = sqlitex.Execute(conn, selectItem+where, &sqlitex.ExecOptions{Args: args, ResultFunc: func(s *sqlite.Stmt) error {
		r, found = scanItem(s), true
		return nil
	}})
	if err != nil || !found {
		return it, false, err
	}
	it, err = db.complete(conn, r, db.texts.of)
	return it, true, err
}

// complete reads what belongs to an item from the other tables, and puts its narinfo together. text gives texts by their numbers.
func (db *DB) complete(conn *sqlite.Conn, r itemRow, text func(*sqlite.Conn, int64) (string, error)) (it catalog.Item, err error) {
	fs, err := db.filesOf(conn, &r.item, r.nar)
	if err != nil {
		return it, err
	}
	return db.completeWith(conn, r, fs, text)
}

// completeWith is complete with files that are known.
func (db *DB) completeWith(conn *sqlite.Conn, r itemRow, fs []catalog.File, text func(*sqlite.Conn, int64) (string, error)) (it catalog.Item, err error) {
	it = r.item
	it.Files = fs
	dir, err := text(conn, r.dir)
	if err != nil {
		return it, err
	}
	it.Path.Dir = storepath.Dir(dir)
	if r.template == 0 {
		it.Narinfo = r.own
		return it, parsedReferences(&it)
	}
	template, err := text(conn, r.template)
	if err != nil {
		return it, err
	}
	facts := factsOf(&it)
	if facts.References, err = db.references(conn, it.Sequence, r.refs); err != nil {
		return it, fmt.Errorf("read the references of %s: %w", it.Path, err)
	}
	if it.Narinfo, err = compact.Join(make([]byte, 0, 700+60*len(facts.References)), template, r.own, facts); err != nil {
		return it, fmt.Errorf("put the narinfo of %s together: %w", it.Path, err)
	}
	var known bool
	if it.References, known = compact.References(template, facts); !known {
		return it, parsedReferences(&it)
	}
	return it, nil
}

// parsedReferences reads the references from the narinfo, which has them in an order of its own.
func parsedReferences(it *catalog.Item) error {
	n, err := narinfo.Parse(it.Narinfo)
	if err != nil {
		return fmt.Errorf("read the narinfo kept for %s: %w", it.Path, err)
	}
	it.References = n.References
	return nil
}

// factsOf returns what is known of an item without its narinfo, but for the references.
func factsOf(it *catalog.Item) compact.Facts {
	f := compact.Facts{Path: it.Path, NarHash: it.NarHash, NarSize: it.NarSize, Files: make([]compact.File, len(it.Files))}
	for i, file := range it.Files {
		f.Files[i] = compact.File{Compression: file.Compression, Size: file.Size, SHA256: file.SHA256}
	}
	return f
}

// factsWith returns what is known of an item that has these files.
func factsWith(it *catalog.Item, files []catalog.File) compact.Facts {
	with := *it
	with.Files = files
	f := factsOf(&with)
	f.References = make([]storepath.Base, 0, len(it.References))
	for _, r := range it.References {
		if r != it.Path.Base {
			f.References = append(f.References, r)
		}
	}
	slices.Sort(f.References)
	f.References = slices.Compact(f.References)
	return f
}

// split makes the two columns in which the narinfo of an item with these files is kept.
func (t *transaction) split(it *catalog.Item, files []catalog.File) (template any, own []byte, err error) {
	return t.keep(it, splitWith(it, files))
}

// split is what compact.Split returned.
type split struct {
	template string
	own      []byte
	ok       bool
}

func splitWith(it *catalog.Item, files []catalog.File) (s split) {
	s.template, s.own, s.ok = compact.Split(it.Narinfo, factsWith(it, files))
	return s
}

// keep returns the columns of an item's row in which its narinfo is kept.
func (t *transaction) keep(it *catalog.Item, s split) (template any, own []byte, err error) {
	if !s.ok {
		return nil, it.Narinfo, nil
	}
	id, err := t.number(s.template, true)
	if err != nil {
		return nil, nil, err
	}
	if id == 0 {
		return nil, it.Narinfo, nil
	}
	return id, s.own, nil
}

// references returns the items with the packed distances from the id of an item, ascending by name.
func (db *DB) references(conn *sqlite.Conn, id int64, packed []byte) (refs []storepath.Base, err error) {
	distance := int64(0)
	for len(packed) > 0 {
		step, n := binary.Uvarint(packed)
		if n <= 0 {
			return nil, fmt.Errorf("%w: the distances of item %d end early", catalog.ErrDamaged, id)
		}
		packed = packed[n:]
		distance += int64(step)
		b, err := db.base(conn, id-distance)
		if err != nil {
			return nil, err
		}
		refs = append(refs, b)
	}
	slices.Sort(refs)
	return refs, nil
}

// mostNames bounds the memory for names, some 100 bytes for each: 26 MB.
const mostNames = 1 << 18

// names remembers the base names of items that were referenced lately. Most references are to few items, and no id is ever given to
// another item.
type names struct {
	mu        sync.RWMutex
	base, old map[int64]storepath.Base
}

// of returns the base name of an item. conn must see only what is committed.
func (n *names) of(conn *sqlite.Conn, id int64) (b storepath.Base, err error) {
	n.mu.RLock()
	b, ok := n.base[id]
	if !ok {
		b = n.old[id]
	}
	n.mu.RUnlock()
	if ok {
		return b, nil
	}
	if b == "" {
		if b, err = baseOf(conn, id); err != nil {
			return "", err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.base) >= mostNames/2 || n.base == nil {
		n.base, n.old = make(map[int64]storepath.Base, 1024), n.base
	}
	n.base[id] = b
	return b, nil
}

func baseOf(conn *sqlite.Conn, id int64) (b storepath.Base, err error) {
	err = sqlitex.Execute(conn, "SELECT hash, name FROM items WHERE id = ?", &sqlitex.ExecOptions{Args: []any{id}, ResultFunc: func(s *sqlite.Stmt) error {
		var hash [20]byte
		s.ColumnBytes(0, hash[:])
		b = base(hash[:], s.ColumnText(1))
		return nil
	}})
	if err == nil && b == "" {
		b, err = formerName(conn, id)
	}
	if err == nil && b == "" {
		err = fmt.Errorf("%w: item %d is referenced and is not there", catalog.ErrDamaged, id)
	}
	return b, err
}
