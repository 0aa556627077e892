package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"narfold/internal/narinfo"
	"narfold/internal/narinfodb"
	"narfold/internal/storepath"
)

// database is the database of a nar-herder, or of another program that keeps narinfos whole, with the nars in a tree of their own at
// the URLs that the narinfos have. It takes 28 bytes of memory for each item.
//
// What nar-herder's tables are called is not relied upon: see package narinfodb. That its nars lie below one directory
// ("storage") is what Guix's manual says of it; that they lie there by their URLs is an assumption, which every nar proves or
// disproves by its hash.
type database struct {
	db   *narinfodb.DB
	name string
	nars tree
	index
}

// index tells in which row the narinfo of an item is: parts ascending, rows beside them.
type index struct {
	parts listed
	rows  []int64
}

// Len, Less and Swap order by part, and rows of one part as they lie.
func (x *index) Len() int { return len(x.rows) }
func (x *index) Less(i, j int) bool {
	if c := compareParts(x.parts[i], x.parts[j]); c != 0 {
		return c < 0
	}
	return x.rows[i] < x.rows[j]
}
func (x *index) Swap(i, j int) {
	x.parts[i], x.parts[j] = x.parts[j], x.parts[i]
	x.rows[i], x.rows[j] = x.rows[j], x.rows[i]
}

// compact keeps the last row of each part.
func (x *index) compact() {
	sort.Sort(x)
	n := 0
	for i := range x.rows {
		if n > 0 && x.parts[n-1] == x.parts[i] {
			x.rows[n-1] = x.rows[i]
			continue
		}
		x.parts[n], x.rows[n] = x.parts[i], x.rows[i]
		n++
	}
	x.parts, x.rows = slices.Clip(x.parts[:n]), slices.Clip(x.rows[:n])
}

func openDatabase(ctx context.Context, name string, opt Options) (_ *database, err error) {
	if opt.Nars == "" {
		return nil, fmt.Errorf("open %s: %w", name, ErrNoNars)
	}
	nars, err := openNars(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("open nars of %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			nars.Close()
		}
	}()
	db, err := narinfodb.Open(ctx, name)
	if err != nil {
		return nil, explainDatabase(err)
	}
	d := &database{db: db, name: name, nars: nars}
	for row, err := range db.Rows(ctx) {
		if err == nil {
			var p part
			if p, err = partOfText(row.Text); err == nil {
				d.parts, d.rows = append(d.parts, p), append(d.rows, row.ID)
				continue
			}
			err = opt.refuse(fmt.Sprintf("row %d of %s", row.ID, filepath.Base(name)), err)
		}
		if err != nil {
			db.Close()
			return nil, explainDatabase(err)
		}
	}
	d.compact()
	opt.Log.Info("database of narinfos", "file", name, "column", db.Column(), "items", len(d.rows), "nars", nars.String())
	return d, nil
}

// openNars opens where the nars of a database are: a directory, a bucket or a server.
func openNars(ctx context.Context, opt Options) (tree, error) {
	if strings.Contains(opt.Nars, "://") {
		spec, err := Recognise(opt.Nars, Options{})
		if err != nil {
			return nil, err
		}
		return openTree(ctx, spec, opt)
	}
	return openFolder(opt.Nars)
}

func explainDatabase(err error) error {
	switch {
	case errors.Is(err, narinfodb.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, narinfodb.ErrDamaged):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, narinfodb.ErrNoNarinfos):
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

// partOfText reads the hash part out of the first line of a narinfo, which spares parsing all of it only to know of which item it is.
func partOfText(text []byte) (part, error) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	value, ok := bytes.CutPrefix(line, []byte("StorePath: "))
	if !ok {
		return part{}, fmt.Errorf("%w: no narinfo", ErrDamaged)
	}
	p, err := storepath.Parse(string(value))
	if err != nil {
		return part{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return partOf(p.HashPart()), nil
}

func (d *database) String() string { return d.name }

// Close closes the database, and what its nars are read through.
func (d *database) Close() error { return errors.Join(d.db.Close(), d.nars.Close()) }

func (d *database) traits() traits {
	return traits{cheap: true, one: d.nars.traits().one, workers: localWorkers()}
}

// read gives narinfos; there is nothing else in such a database that a binary cache has.
func (d *database) read(ctx context.Context, name string, limit int) ([]byte, error) {
	h, ok := narinfoName(name)
	if !ok {
		return nil, ErrNotFound
	}
	i, ok := d.parts.of(partOf(h))
	if !ok {
		return nil, fmt.Errorf("%s in %s: %w", h, d, ErrNotFound)
	}
	text, err := d.db.At(ctx, d.rows[i])
	if err == nil && len(text) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrDamaged, limit)
	}
	return text, explainDatabase(err)
}

func (d *database) hashParts(context.Context) iter.Seq2[storepath.HashPart, error] {
	return func(yield func(storepath.HashPart, error) bool) {
		for _, p := range d.parts {
			if !yield(p.hashPart(), nil) {
				return
			}
		}
	}
}

// streamed gives all narinfos in the order in which they lie, so that a large file is read from its beginning to its end, with their
// numbers in parts.
func (d *database) streamed(ctx context.Context) (listed, iter.Seq2[streamedText, error]) {
	return d.parts, func(yield func(streamedText, error) bool) {
		for row, err := range d.db.Rows(ctx) {
			if err != nil {
				yield(streamedText{}, explainDatabase(err))
				return
			}
			p, err := partOfText(row.Text)
			if err != nil {
				continue // openDatabase has told of it
			}
			// A row that came meanwhile, or an older one of the same item, is passed over.
			if i, ok := d.parts.of(p); ok && d.rows[i] == row.ID && !yield(streamedText{i, row.Text}, nil) {
				return
			}
		}
	}
}

func (d *database) nar(f narinfo.File) (opener, error)           { return d.nars.nar(f) }
func (d *database) has(ctx context.Context, f narinfo.File) bool { return d.nars.has(ctx, f) }
func (d *database) logs(context.Context) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}
