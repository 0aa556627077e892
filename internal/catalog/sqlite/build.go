package sqlite

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/catalog/compact"
	"narfold/internal/digest"
	"narfold/internal/durable"
	"narfold/internal/storepath"
)

// Build makes a catalogue at path of items that come references first: of another catalogue, or of what an object store holds. It takes
// their files as they are, without reservations: the caller answers for the objects. It fails with catalog.ErrPresent if there is a
// catalogue already, and with a *BuildError if an item cannot be part of one; then, and with any other error, nothing is at path.
//
// It is some times as fast as Publish, since nobody sees the file before it is whole: nothing is logged, references are looked up in
// memory, and indexes are made at the end. While it runs it takes up to 900 bytes of memory for each of a million items.
func Build(ctx context.Context, path string, items iter.Seq2[catalog.Publication, error]) (n int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("build catalogue %s: %w", path, err)
		}
	}()
	keepPages()
	use, err := lockFolder(path, true)
	if err != nil {
		return 0, err
	}
	defer use.Close()
	if _, err := os.Lstat(path); err == nil {
		return 0, catalog.ErrPresent
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".narfold-tmp-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	if n, err = build(ctx, temp.Name(), items); err != nil {
		return 0, interrupted(ctx, err)
	}
	if err := temp.Sync(); err != nil {
		return 0, err
	}
	if err := os.Link(temp.Name(), path); err != nil {
		return 0, err
	}
	return n, durable.SyncDir(filepath.Dir(path))
}

// BuildError says which item cannot be part of a catalogue, and why.
type BuildError struct {
	Path storepath.Path
	Err  error // catalog.ErrNotFound: it references what has not come before; catalog.ErrPresent: it has come before
}

func (e *BuildError) Error() string { return e.Path.String() + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *BuildError) Unwrap() error { return e.Err }

func build(ctx context.Context, path string, items iter.Seq2[catalog.Publication, error]) (n int64, err error) {
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return 0, mapError(err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := configure(conn, "journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", "cache_size = -65536", "temp_store = MEMORY"); err != nil {
		return 0, err
	}
	if err := sqlitex.ExecuteScript(conn, tables, nil); err != nil {
		return 0, mapError(err)
	}
	conn.SetInterrupt(ctx.Done())
	defer conn.SetInterrupt(nil)
	b := &builder{conn: conn, ids: make(map[[20]byte]builtItem), nars: make(map[[16]byte]uint32), texts: make(map[string]int64), now: time.Now().UTC()}
	if err := sqlitex.ExecuteTransient(conn, "BEGIN", nil); err != nil {
		return 0, mapError(err)
	}
	if err := b.fill(ctx, items); err != nil {
		return 0, err
	}
	if err := sqlitex.ExecuteTransient(conn, "COMMIT", nil); err != nil {
		return 0, mapError(err)
	}
	b.ids, b.nars = nil, nil // the indexes want the memory
	script := fmt.Sprintf("%s %s PRAGMA user_version = %d; PRAGMA application_id = %d;", indexes, countAll, firstSchema, applicationID)
	if err := sqlitex.ExecuteScript(conn, script, nil); err != nil {
		return 0, mapError(err)
	}
	return b.n, nil
}

// builder fills tables that are empty.
type builder struct {
	conn  *sqlite.Conn
	n     int64
	nar   int64
	ids   map[[20]byte]builtItem // by hash part
	nars  map[[16]byte]uint32    // by the first half of the hash
	texts map[string]int64
	now   time.Time
}

// halved is a publication whose narinfo has been divided.
type halved struct {
	catalog.Publication
	template string // "" if own is the whole narinfo
	own      []byte
}

// buildChunk is how many items a worker divides at a time.
const buildChunk = 256

// fill inserts items: one goroutine lists them, several divide narinfos, and this one inserts, in the order of the list.
func (b *builder) fill(ctx context.Context, items iter.Seq2[catalog.Publication, error]) error {
	type chunk struct {
		items []halved
		done  chan struct{}
	}
	g, gctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	work, order := make(chan *chunk, workers), make(chan *chunk, 2*workers)
	g.Go(func() error {
		defer close(work)
		defer close(order)
		c := &chunk{done: make(chan struct{})}
		hand := func() error {
			for _, to := range []chan *chunk{order, work} {
				select {
				case to <- c:
				case <-gctx.Done():
					return context.Cause(gctx)
				}
			}
			c = &chunk{done: make(chan struct{})}
			return nil
		}
		for p, err := range items {
			if err != nil {
				return fmt.Errorf("list items: %w", err)
			}
			if c.items = append(c.items, halved{Publication: p}); len(c.items) == buildChunk {
				if err := hand(); err != nil {
					return err
				}
			}
		}
		return hand()
	})
	for range workers {
		g.Go(func() error {
			for c := range work {
				for i := range c.items {
					c.items[i].divide()
				}
				close(c.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		for c := range order {
			select {
			case <-c.done:
			case <-gctx.Done():
				return context.Cause(gctx)
			}
			for i := range c.items {
				if err := b.insert(&c.items[i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return g.Wait()
}

func (h *halved) divide() {
	facts := factsWith(&h.Item, h.Files)
	template, own, ok := compact.Split(h.Narinfo, facts)
	if !ok {
		template, own = "", h.Narinfo
	}
	h.template, h.own = template, own
}

// run executes a statement that is kept prepared.
func (b *builder) run(query string, bind func(*sqlite.Stmt)) error {
	stmt, err := b.conn.Prepare(query)
	if err != nil {
		return mapError(err)
	}
	bind(stmt)
	if _, err := stmt.Step(); err != nil {
		return mapError(errors.Join(err, stmt.Reset()))
	}
	return mapError(stmt.Reset())
}

func (b *builder) text(text string) (int64, error) {
	if id := b.texts[text]; id != 0 {
		return id, nil
	}
	err := b.run("INSERT INTO texts(text) VALUES(?)", func(s *sqlite.Stmt) { s.BindText(1, text) })
	b.texts[text] = b.conn.LastInsertRowID()
	return b.texts[text], err
}

func (b *builder) insert(h *halved) error {
	refuse := func(err error) error { return &BuildError{h.Path, err} }
	hash := h.Path.HashPart().Bytes()
	id := b.n + 1
	switch {
	case b.ids[hash].id != 0:
		return refuse(catalog.ErrPresent)
	case len(h.Files) == 0:
		return refuse(errNoFile)
	case id > 1<<32-1:
		return refuse(errors.New("a catalogue is built with at most 4,294,967,295 items"))
	}
	refs, named, err := b.pack(h, id)
	if err != nil {
		return refuse(err)
	}
	dir, err := b.text(string(h.Path.Dir))
	if err != nil {
		return err
	}
	by, err := b.text(h.By)
	if err != nil {
		return err
	}
	nar, err := b.files(h, id)
	if err != nil {
		return err
	}
	var template int64
	if !named {
		h.template, h.own = "", h.Narinfo // see publishing.callsByName
	}
	if h.template != "" {
		if b.texts[h.template] == 0 && len(b.texts) >= mostTexts {
			h.own = h.Narinfo
		} else if template, err = b.text(h.template); err != nil {
			return err
		}
	}
	published := h.Published
	if published.IsZero() {
		published = b.now
	}
	err = b.run("INSERT INTO items(id, hash, dir, name, nar, published, by, template, narinfo) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", func(s *sqlite.Stmt) {
		s.BindInt64(1, id)
		s.BindBytes(2, order(h.Path.HashPart()))
		s.BindInt64(3, dir)
		s.BindText(4, h.Path.Name())
		s.BindInt64(5, nar)
		s.BindInt64(6, published.UnixMilli())
		s.BindInt64(7, by)
		if s.BindNull(8); template != 0 {
			s.BindInt64(8, template)
		}
		s.BindBytes(9, h.own)
	})
	if err != nil {
		return err
	}
	if err := b.run("INSERT INTO refs(id, refs) VALUES(?, ?)", func(s *sqlite.Stmt) { s.BindInt64(1, id); s.BindBytes(2, refs) }); err != nil {
		return err
	}
	err = b.run("INSERT INTO changes(op, item, at) VALUES(?, ?, ?)", func(s *sqlite.Stmt) {
		s.BindInt64(1, int64(catalog.ChangePublished))
		s.BindInt64(2, id)
		s.BindInt64(3, published.UnixMilli())
	})
	if err != nil {
		return err
	}
	b.ids[hash] = builtItem{uint32(id), sumOf(h.Path.Name())}
	b.n++
	return nil
}

// builtItem is an item that was inserted: its id, and a sum of its name, which is enough to tell whether another means the same.
type builtItem struct{ id, name uint32 }

func sumOf(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name)) // never fails
	return h.Sum32()
}

// pack is publishing.pack with the ids in memory, and callsByName.
func (b *builder) pack(h *halved, id int64) (refs []byte, named bool, err error) {
	named = true
	distances := make([]int64, 0, len(h.References))
	for _, r := range h.References {
		if r == h.Path.Base {
			continue
		}
		ref := b.ids[r.HashPart().Bytes()]
		if ref.id == 0 {
			return nil, false, fmt.Errorf("it references %s: %w", r, catalog.ErrNotFound)
		}
		named = named && ref.name == sumOf(r.Name())
		distances = append(distances, id-int64(ref.id))
	}
	return packed(distances), named, nil
}

// packed encodes distances, ascending and each once, as varints of the steps between them.
func packed(distances []int64) []byte {
	slices.Sort(distances)
	b := make([]byte, 0, 2*len(distances))
	last := int64(0)
	for _, d := range slices.Compact(distances) {
		b = binary.AppendUvarint(b, uint64(d-last))
		last = d
	}
	return b
}

// files inserts the nar of an item and its files. If another item has brought the nar, only compressions are added that it has not,
// other objects are uploads that came to nothing, and the narinfo is divided anew, since it was with files that are not kept.
func (b *builder) files(h *halved, id int64) (nar int64, err error) {
	var have []catalog.File
	shared := b.nars[half(h.NarHash)]
	if shared != 0 {
		nar = int64(shared)
		if have, err = files(b.conn, nar); err != nil {
			return 0, err
		}
	} else {
		b.nar++
		nar = b.nar
		err = b.run("INSERT INTO nars(id, hash, size) VALUES(?, ?, ?)", func(s *sqlite.Stmt) {
			s.BindInt64(1, nar)
			s.BindBytes(2, h.NarHash[:])
			s.BindInt64(3, h.NarSize)
		})
		if err != nil {
			return 0, err
		}
		b.nars[half(h.NarHash)] = uint32(nar)
	}
	for _, f := range h.Files {
		if i := slices.IndexFunc(have, func(o catalog.File) bool { return o.Compression == f.Compression }); i >= 0 {
			if have[i].Key == f.Key {
				continue
			}
			err := b.run("INSERT OR IGNORE INTO uploads(key, since) VALUES(?, ?)", func(s *sqlite.Stmt) {
				s.BindText(1, string(f.Key))
				s.BindInt64(2, b.now.UnixMilli())
			})
			if err != nil {
				return 0, err
			}
			continue
		}
		if err := put(b.conn, nar, f, id, h.Path.Base); err != nil {
			return 0, err
		}
		have = append(have, f)
	}
	if shared != 0 {
		h.Files = have
		h.divide()
	}
	return nar, nil
}

func half(hash digest.SHA256) (h [16]byte) {
	copy(h[:], hash[:])
	return h
}
