package serve

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"narfold/internal/catalog"
	"narfold/internal/objstore"
)

// errDamaged says that an item's nar is here in no form that is whole. It is no absence: the nar may be repaired, and another server be asked.
var errDamaged = fmt.Errorf("every form of its nar is damaged: %w", objstore.ErrUnavailable)

// Quarantine has the keys of objects that were found damaged. They are not served: an item is offered in the other compressions that it
// has, and one that has none is answered 503. It is safe for concurrent use, and nil is an empty one.
type Quarantine struct {
	changes atomic.Int64

	mu   sync.RWMutex
	keys map[objstore.Key]bool
}

// Set puts these objects, and no others, into quarantine.
func (q *Quarantine) Set(keys []objstore.Key) {
	set := make(map[objstore.Key]bool, len(keys))
	for _, k := range keys {
		set[k] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keys = set
	q.changes.Add(1)
}

// Keys returns the objects that are in quarantine.
func (q *Quarantine) Keys() []objstore.Key {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return slices.Collect(maps.Keys(q.keys))
}

// Len returns how many objects are in quarantine.
func (q *Quarantine) Len() int {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return len(q.keys)
}

func (q *Quarantine) version() int64 {
	if q == nil {
		return 0
	}
	return q.changes.Load()
}

// whole returns those of an item's files that are not in quarantine.
func (q *Quarantine) whole(files []catalog.File) ([]catalog.File, error) {
	whole := make([]catalog.File, 0, len(files))
	if q != nil {
		q.mu.RLock()
		defer q.mu.RUnlock()
	}
	for _, f := range files {
		if q == nil || !q.keys[f.Key] {
			whole = append(whole, f)
		}
	}
	if len(whole) == 0 && len(files) > 0 {
		return nil, errDamaged
	}
	return whole, nil
}
