package check

import (
	"context"
	"fmt"
	"slices"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// first is how many items a finding names.
const first = 10

// closure walks the published items, references first. It checks that what each references is published, names the items whose
// objects are damaged, and counts what references those.
func (c *checker) closure(ctx context.Context) error {
	var (
		seen  recently
		batch []catalog.Item
		ask   = make(map[storepath.HashPart]bool) // references of batch that are not known to be published
	)
	flush := func() error {
		err := c.references(ctx, batch, ask, &seen)
		batch = batch[:0]
		clear(ask)
		return err
	}
	for it, err := range c.Catalogue.Items(ctx, 0) {
		if err != nil {
			return err
		}
		c.report.Items++
		c.name(it)
		open := false
		for _, r := range it.References {
			if h := r.HashPart(); r != it.Path.Base && !seen.has(h) {
				ask[h], open = true, true
			}
		}
		seen.add(it.Path.HashPart())
		if !open {
			continue
		}
		it.Narinfo, it.Files = nil, nil // a batch keeps what it needs
		if batch = append(batch, it); len(ask) >= 1000 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// references asks which references of a batch are published.
func (c *checker) references(ctx context.Context, batch []catalog.Item, ask map[storepath.HashPart]bool, seen *recently) error {
	hs := make([]storepath.HashPart, 0, len(ask))
	for h := range ask {
		hs = append(hs, h)
	}
	slices.Sort(hs)
	missing, err := c.Catalogue.Missing(ctx, hs)
	if err != nil {
		return err
	}
	absent := make(map[storepath.HashPart]bool, len(missing))
	for _, h := range missing {
		absent[h] = true
	}
	for _, h := range hs {
		if !absent[h] {
			seen.add(h)
		}
	}
	if len(absent) == 0 {
		return nil
	}
	for _, it := range batch {
		var open []storepath.Base
		for _, r := range it.References {
			if r != it.Path.Base && absent[r.HashPart()] {
				open = append(open, r)
			}
		}
		if len(open) == 0 {
			continue
		}
		// A collector may have withdrawn both since the walk passed; then the item is gone too.
		if gone, err := c.Catalogue.Missing(ctx, []storepath.HashPart{it.Path.HashPart()}); err != nil || len(gone) > 0 {
			if err != nil {
				return err
			}
			continue
		}
		c.found(Finding{Kind: Open, Items: []string{it.Path.String()}, References: open,
			Detail: fmt.Sprintf("%d of its references are not published", len(open))})
	}
	return nil
}

// name tells the findings about objects which items they concern, and which items reference those.
func (c *checker) name(it catalog.Item) {
	if len(c.damagedKeys) == 0 {
		return
	}
	for _, r := range it.References {
		for _, f := range c.damagedItems[r.HashPart()] {
			if r == it.Path.Base {
				continue
			}
			f.Referrers++
			if len(f.ReferrersFirst) < first {
				f.ReferrersFirst = append(f.ReferrersFirst, it.Path.String())
			}
		}
	}
	for _, file := range it.Files {
		f := c.damagedKeys[file.Key]
		if f == nil {
			continue
		}
		if len(f.Items) < first {
			f.Items = append(f.Items, it.Path.String())
		}
		c.damagedItems[it.Path.HashPart()] = append(c.damagedItems[it.Path.HashPart()], f)
	}
}

// recently remembers the items that were last found to be published, so that those which many reference are asked about once. It
// holds at most 2*recentItems of them, about 100 MiB.
type recently struct {
	young, old map[[20]byte]struct{}
}

const recentItems = 1 << 20

func (r *recently) has(h storepath.HashPart) bool {
	b := h.Bytes()
	if _, ok := r.young[b]; ok {
		return true
	}
	_, ok := r.old[b]
	if ok {
		r.add(h) // still in use
	}
	return ok
}

func (r *recently) add(h storepath.HashPart) {
	if r.young == nil || len(r.young) >= recentItems {
		r.young, r.old = make(map[[20]byte]struct{}), r.young
	}
	r.young[h.Bytes()] = struct{}{}
}
