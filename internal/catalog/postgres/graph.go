package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"narfold/internal/catalog"
	"narfold/internal/storepath"
)

// eachReference calls f with the id of each reference in a row of refs or condemned_refs.
func eachReference(id int64, packed []byte, f func(int64)) error {
	at := id
	for len(packed) > 0 {
		step, n := binary.Uvarint(packed)
		if n <= 0 {
			return fmt.Errorf("%w: the references of item %d end early", catalog.ErrDamaged, id)
		}
		packed = packed[n:]
		at -= int64(step)
		f(at)
	}
	return nil
}

// idSet is a set of ids, each of an item that may have several. Most ids that it is asked for are not in it.
type idSet struct {
	bits  []uint64
	first int64 // of bits[0]
	item  map[int64]int64
}

// newIDSet makes a set of the keys of item.
func newIDSet(item map[int64]int64) idSet {
	s := idSet{item: item}
	if len(item) == 0 {
		return s
	}
	last := int64(0)
	for id := range item {
		if s.first == 0 || id < s.first {
			s.first = id
		}
		last = max(last, id)
	}
	s.bits = make([]uint64, (last-s.first)/64+1)
	for id := range item {
		s.bits[(id-s.first)/64] |= 1 << ((id - s.first) % 64)
	}
	return s
}

// of returns the item of an id, or 0 if it is not in the set.
func (s *idSet) of(id int64) int64 {
	at := id - s.first
	if at < 0 || at >= int64(len(s.bits))*64 || s.bits[at/64]>>(at%64)&1 == 0 {
		return 0
	}
	return s.item[id]
}

// mostOutside is how many items that reference one of the set are remembered for it. Should all of them be gone when it is decided, the
// references are read again.
const mostOutside = 4

// errStale says that too much has gone since references were read.
var errStale = errors.New("what is referenced has changed too much")

// web is what is known of the references among a set of items, and of who else references them.
type web struct {
	refs    map[int64][]int64 // of items of the set to others of it
	outside map[int64][]int64 // an item of the set, and some that reference it and are not in the set
}

func newWeb() *web { return &web{refs: make(map[int64][]int64), outside: make(map[int64][]int64)} }

// add reads the rows that a query of ids and packed references gives.
func (w *web) add(ctx context.Context, tx pgx.Tx, set idSet, query string, args ...any) error {
	answer, err := tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	var (
		id     int64
		packed pgtype.DriverBytes
	)
	_, err = pgx.ForEachRow(answer, []any{&id, &packed}, func() error {
		own := set.of(id)
		return eachReference(id, packed, func(ref int64) {
			switch ref = set.of(ref); {
			case ref == 0, ref == own:
			case own != 0:
				w.refs[own] = append(w.refs[own], ref)
			case len(w.outside[ref]) < mostOutside:
				w.outside[ref] = append(w.outside[ref], id)
			}
		})
	})
	return err
}

// others returns the ids of all that is remembered outside of the set.
func (w *web) others() (ids []int64) {
	for _, by := range w.outside {
		ids = append(ids, by...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// keeper returns an item outside of the set that references one of it, or 0. there has those that are there. It fails with errStale if there
// may be one that is not remembered.
func (w *web) keeper(id int64, there map[int64]storepath.Base) (int64, error) {
	all := w.outside[id]
	for _, by := range all {
		if there[by] != "" {
			return by, nil
		}
	}
	if len(all) == mostOutside {
		return 0, errStale
	}
	return 0, nil
}

// stay spreads what keeps items: what an item that stays references stays too. It returns for each which item keeps it.
func (w *web) stay(kept []int64) map[int64]int64 {
	by := make(map[int64]int64)
	for _, id := range kept {
		by[id] = id
	}
	for len(kept) > 0 {
		id := kept[len(kept)-1]
		kept = kept[:len(kept)-1]
		for _, ref := range w.refs[id] {
			if _, ok := by[ref]; !ok {
				by[ref] = id
				kept = append(kept, ref)
			}
		}
	}
	return by
}

// scanNames reads rows of id, hash and name.
func scanNames(names map[int64]storepath.Base) func(pgx.Rows) error {
	return func(r pgx.Rows) error {
		var (
			id   int64
			hash []byte
			name string
		)
		_, err := pgx.ForEachRow(r, []any{&id, &hash, &name}, func() error {
			names[id] = baseOf(hash, name)
			return nil
		})
		return err
	}
}

func baseOf(hash []byte, name string) storepath.Base {
	return storepath.Base(string(storepath.HashPartOf([20]byte(hash))) + "-" + name)
}
