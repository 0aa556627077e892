package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"sync"

	"narfold/herder/publish"
	"narfold/internal/nar"
	"narfold/internal/narinfo"
	"narfold/internal/nixdb"
	"narfold/internal/storepath"
)

// store is a store directory with its database. What is valid, and what it references, is as the database says at one moment; items
// that the daemon's garbage collector takes between then and their turn are left out.
type store struct {
	logical storepath.Dir
	real    string
	db      *nixdb.DB
	opt     Options
	items   []wanted
	tally
	close sync.Once
}

// openStore opens the store at dir, which may be the logical or the physical directory, for all that it has or the items given.
func openStore(ctx context.Context, dir string, items []wanted, opt Options) (Source, error) {
	logical, err := storepath.ParseDir(dir)
	if err != nil {
		return nil, err
	}
	real := opt.Real
	if real == "" {
		real = dir
	}
	at := opt.Database
	if at == "" {
		at = nixdb.PathOf(dir, opt.State)
	}
	more, err := parseItems(opt.Items)
	if err != nil {
		return nil, err
	}
	items = append(slices.Clone(items), more...)
	if opt.StorePaths != "" {
		if more, err = readStorePaths(ctx, opt.StorePaths, opt); err != nil {
			return nil, err
		}
		items = append(items, more...)
	}
	if opt.ScanReferences {
		return newScanned(logical, real, items, opt), nil
	}
	db, err := nixdb.Open(ctx, at)
	if errors.Is(err, nixdb.ErrNoDatabase) {
		return nil, fmt.Errorf("open store %s: %w at %s; name it, or ask for the references to be read out of the files", dir, ErrNoMetadata, at)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	recorded, err := db.Dir(ctx)
	switch {
	case err != nil:
	case recorded != "" && recorded != logical && opt.Real != "":
		err = fmt.Errorf("%w: %s is the database of %s, not of %s", ErrDamaged, at, recorded, dir)
	case recorded != "":
		logical = recorded // dir was the physical directory of a store that is mounted elsewhere
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return &store{logical: logical, real: real, db: db, opt: opt, items: items}, nil
}

// String names the directory.
func (s *store) String() string { return s.real }

// Dir returns the logical store directory.
func (s *store) Dir() storepath.Dir { return s.logical }

// Close closes the database.
func (s *store) Close() (err error) {
	s.close.Do(func() { err = s.db.Close() })
	return err
}

// Jobs implements Source.
func (s *store) Jobs(ctx context.Context) iter.Seq2[publish.Job, error] {
	return func(yield func(publish.Job, error) bool) { finish(yield, s.list(ctx, yield)) }
}

func (s *store) list(ctx context.Context, yield jobs) error {
	var (
		l   rows
		err error
	)
	if len(s.items) > 0 {
		err = s.named(ctx, &l)
	} else {
		err = s.whole(ctx, &l)
	}
	if err != nil {
		return err
	}
	s.tally.set(l.graph.count(), l.bytes)
	chunk := make([]int64, 0, chunkItems)
	for node := range l.graph.order() {
		if chunk = append(chunk, l.ids[node]); len(chunk) < chunkItems {
			continue
		}
		if err := s.yieldChunk(ctx, chunk, yield); err != nil {
			return err
		}
		chunk = chunk[:0]
	}
	return s.yieldChunk(ctx, chunk, yield)
}

// chunkItems is how many items are read of the database at once: a reading of its own for each takes twice the time.
const chunkItems = 64

// yieldChunk reads items, and then yields their jobs, while the database is nobody's.
func (s *store) yieldChunk(ctx context.Context, ids []int64, yield jobs) error {
	items := make([]nixdb.Item, len(ids))
	errs := make([]error, len(ids))
	err := s.db.View(ctx, func(v *nixdb.View) error {
		for i, id := range ids {
			if items[i], errs[i] = v.Item(id); errs[i] != nil && ctx.Err() != nil {
				return errs[i]
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, id := range ids {
		switch {
		case errors.Is(errs[i], nixdb.ErrAccess):
			return errs[i]
		case errs[i] != nil:
			if err := s.opt.refuse(fmt.Sprintf("row %d of the database of %s", id, s), errs[i]); err != nil {
				return err
			}
		case !yield(s.job(items[i]), nil):
			return errStopped
		}
	}
	return nil
}

// rows are the items to list, by the IDs of the database: 17 bytes for each, and 4 for each reference.
type rows struct {
	ids   []int64
	graph graph
	bytes int64
}

// whole takes all items. IDs come in ascending order, so that a node's number is found by searching.
func (s *store) whole(ctx context.Context, l *rows) error {
	var (
		row  []uint32
		from = -1 // the node whose row is being collected
	)
	flush := func() {
		if from >= 0 {
			l.graph.set(uint32(from), row)
		}
		row = row[:0]
	}
	err := s.db.Snapshot(ctx, func(n nixdb.Node) error {
		if !n.Derivation || s.opt.Derivations {
			l.ids = append(l.ids, n.ID)
			l.bytes += n.NarSize
		}
		return nil
	}, func(referrer, reference int64) error {
		node, ok := slices.BinarySearch(l.ids, referrer)
		if !ok {
			return nil
		}
		if node != from {
			flush()
			from = node
		}
		if to, ok := slices.BinarySearch(l.ids, reference); ok {
			row = append(row, uint32(to))
		}
		return nil
	})
	if err != nil {
		return err
	}
	flush()
	l.graph.grow(len(l.ids))
	for node := range l.ids {
		if !l.graph.has(uint32(node)) {
			l.graph.set(uint32(node), nil)
		}
	}
	return nil
}

// named takes the items that were named and, with Closure, what they reference.
func (s *store) named(ctx context.Context, l *rows) error {
	number := map[int64]uint32{}
	add := func(id int64) uint32 {
		node, ok := number[id]
		if !ok {
			node = uint32(len(l.ids))
			number[id] = node
			l.ids = append(l.ids, id)
		}
		return node
	}
	for _, w := range s.items {
		id, err := s.find(ctx, w)
		if err == nil {
			add(id)
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, nixdb.ErrNotFound) {
			err = fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		if err := s.opt.refuse(w.String(), err); err != nil {
			return err
		}
	}
	return s.db.View(ctx, func(v *nixdb.View) error {
		for node := 0; node < len(l.ids); node++ {
			refs, size, err := v.Edges(l.ids[node])
			if err != nil {
				return err
			}
			l.bytes += size
			var row []uint32
			for _, id := range refs {
				if s.opt.Closure {
					row = append(row, add(id))
				} else if to, ok := number[id]; ok {
					row = append(row, to)
				}
			}
			l.graph.set(uint32(node), row)
		}
		return nil
	})
}

// find looks an item up by what was named of it.
func (s *store) find(ctx context.Context, w wanted) (int64, error) {
	if w.base == "" {
		p, err := s.db.FindHashPart(ctx, s.logical, w.hash)
		if err != nil {
			return 0, err
		}
		return s.db.Find(ctx, p)
	}
	if w.dir != "" && w.dir != s.logical {
		return 0, fmt.Errorf("%w: %s is not in %s", ErrNotFound, w, s.logical)
	}
	return s.db.Find(ctx, storepath.Path{Dir: s.logical, Base: w.base})
}

// job makes a job of what the database says of an item.
func (s *store) job(it nixdb.Item) publish.Job {
	return dumpJob(&narinfo.Narinfo{
		StorePath:  it.Path,
		NarHash:    it.NarHash,
		NarSize:    it.NarSize,
		References: it.References,
		Deriver:    it.Deriver,
		CA:         it.CA,
		Sigs:       it.Sigs,
	}, s.real, s.opt.By)
}

// dumpJob makes the job of an item whose nar is made here, of its files below real.
func dumpJob(n *narinfo.Narinfo, real, by string) publish.Job {
	file := filepath.Join(real, string(n.StorePath.Base))
	return publish.Job{
		Narinfo: n,
		Dump:    func(ctx context.Context, w io.Writer) error { return nar.Dump(ctx, w, file) },
		Sign:    true,
		By:      by,
	}
}
