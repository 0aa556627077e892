package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"narfold/internal/catalog"
	"narfold/internal/catalog/postgres"
	"narfold/internal/catalog/sqlite"
	"narfold/internal/storepath"
)

// subject is an open database that is measured.
type subject interface {
	// load takes all items, in transactions of batch items.
	load(ctx context.Context, items iter.Seq2[catalog.Publication, error], batch int) error
	// find looks an item up with all that is needed to serve its narinfo, and reports whether it is there.
	find(ctx context.Context, h storepath.HashPart) (bool, error)
	// remember brings what a herder keeps in memory there, if the database does that itself.
	remember(ctx context.Context) (own bool, err error)
	// eachHashPart calls f for every item.
	eachHashPart(ctx context.Context, f func([20]byte)) error
	// scan walks all items with their references and files, and returns how many items and references there were.
	scan(ctx context.Context) (items, references int, err error)
	Close() error
}

// kind is how databases of one sort are opened.
type kind struct {
	open func(ctx context.Context, where string) (subject, error)
	// build fills a new database with all items at once, if that can be done otherwise than by filling an open one.
	build func(ctx context.Context, where string, items iter.Seq2[catalog.Publication, error]) error
	// size is what a closed database takes in storage, in bytes. It is nil where the database is not in files of this process.
	size func(where string) (int64, error)
	// forget takes a closed database out of the caches of the operating system, and remember reads it into them. They are nil
	// where size is.
	forget, remember func(where string) error
}

var kinds = map[string]kind{
	"sqlite": {
		open: func(ctx context.Context, where string) (subject, error) {
			db, err := sqlite.Open(ctx, sqliteFile(where))
			if err != nil {
				return nil, err
			}
			return catalogue{db}, nil
		},
		build: func(ctx context.Context, where string, items iter.Seq2[catalog.Publication, error]) error {
			_, err := sqlite.Build(ctx, sqliteFile(where), items)
			return err
		},
		size: sizeOfFiles, forget: forgetFiles, remember: readFiles,
	},
	// where is the URL of a database.
	"postgres": {
		open: func(ctx context.Context, where string) (subject, error) {
			db, err := postgres.Open(ctx, where, postgres.Options{})
			if err != nil {
				return nil, err
			}
			return catalogue{db}, nil
		},
	},
	"rows": {
		open: func(ctx context.Context, where string) (subject, error) { return openRows(ctx, where) },
		size: sizeOfFiles, forget: forgetFiles, remember: readFiles,
	},
}

// sqliteFile has the name of the catalogue in a herder's state directory, so that a herder can be started on it.
func sqliteFile(where string) string { return filepath.Join(where, "catalogue.db") }

func kindNames() string { return strings.Join(slices.Sorted(maps.Keys(kinds)), ", ") }

func kindOf(name string) (kind, error) {
	k, ok := kinds[name]
	if !ok {
		return kind{}, fmt.Errorf("kind %q: want one of %s", name, kindNames())
	}
	return k, nil
}

// catalogue is any catalogue of Narfold.
type catalogue struct{ catalog.Catalogue }

func (c catalogue) load(ctx context.Context, items iter.Seq2[catalog.Publication, error], batch int) error {
	return inBatches(items, batch, func(ps []catalog.Publication) error { return c.publish(ctx, ps) })
}

// publish takes the way of every import: keys are handed out first.
func (c catalogue) publish(ctx context.Context, ps []catalog.Publication) error {
	var wants []catalog.Want
	for i := range ps {
		for _, f := range ps[i].Files {
			wants = append(wants, catalog.Want{Base: ps[i].Path.Base, Compression: f.Compression})
		}
	}
	keys, err := c.Reserve(ctx, wants)
	if err != nil {
		return err
	}
	for i := range ps {
		for j := range ps[i].Files {
			ps[i].Files[j].Key, keys = keys[0], keys[1:]
		}
	}
	outcomes, err := c.Publish(ctx, ps)
	if err != nil {
		return err
	}
	for i, o := range outcomes {
		if o.Verdict != catalog.Published {
			return fmt.Errorf("publish %s: %s", ps[i].Path, o.Verdict)
		}
	}
	return nil
}

// remembers is what a catalogue has that keeps a directory of its items in memory, for a herder.
type remembers interface {
	Remember(ctx context.Context) error
	Absent(ctx context.Context, h storepath.HashPart) (bool, error)
}

// remember lets a herder's memory be filled, if the catalogue has one of its own.
func (c catalogue) remember(ctx context.Context) (own bool, err error) {
	m, own := c.Catalogue.(remembers)
	if own {
		err = m.Remember(ctx)
	}
	return own, err
}

func (c catalogue) find(ctx context.Context, h storepath.HashPart) (bool, error) {
	if m, own := c.Catalogue.(remembers); own { // as a herder asks
		if absent, err := m.Absent(ctx, h); err != nil || absent {
			return false, err
		}
	}
	switch it, err := c.Item(ctx, h); {
	case errors.Is(err, catalog.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case it.Path.HashPart() != h || len(it.Narinfo) == 0 || len(it.Files) == 0:
		return false, fmt.Errorf("look up %s: found %s with %d bytes and %d files", h, it.Path, len(it.Narinfo), len(it.Files))
	}
	return true, nil
}

func (c catalogue) eachHashPart(ctx context.Context, f func([20]byte)) error {
	_, err := c.EachHashPart(ctx, 0, f)
	return err
}

func (c catalogue) scan(ctx context.Context) (items, references int, err error) {
	for it, err := range c.Items(ctx, 0) {
		if err != nil {
			return 0, 0, err
		}
		items++
		references += len(it.References)
	}
	return items, references, nil
}

// inBatches cuts a sequence into slices, which are used again after each call.
func inBatches(items iter.Seq2[catalog.Publication, error], size int, each func([]catalog.Publication) error) error {
	batch := make([]catalog.Publication, 0, size)
	for p, err := range items {
		if err != nil {
			return err
		}
		if batch = append(batch, p); len(batch) == size {
			if err := each(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return each(batch)
}
