package sqlite

import (
	"sync"
	"sync/atomic"

	"narfold/internal/catalog"
)

// splits are the narinfos of publications, split on another processor while the transaction, which is for one alone, goes on. It is a third of
// the work.
type splits struct {
	index   map[*catalog.Publication]int
	each    []eachSplit
	stopped atomic.Bool
	done    sync.WaitGroup
}

type eachSplit struct {
	ready chan struct{}
	split
}

// fewSplits are not worth a goroutine.
const fewSplits = 16

// splitAll begins to split. The caller stops it when it is done with it, and changes nothing in ps before.
func splitAll(ps []catalog.Publication) *splits {
	s := &splits{}
	if len(ps) < fewSplits {
		return s
	}
	s.index = make(map[*catalog.Publication]int, len(ps))
	s.each = make([]eachSplit, len(ps))
	for i := range ps {
		s.index[&ps[i]] = i
		s.each[i].ready = make(chan struct{})
	}
	s.done.Go(func() {
		for i := range ps {
			if s.stopped.Load() {
				return
			}
			s.each[i].split = splitWith(&ps[i].Item, ps[i].Files)
			close(s.each[i].ready)
		}
	})
	return s
}

// stop ends what is under way and waits for it.
func (s *splits) stop() {
	s.stopped.Store(true)
	s.done.Wait()
}

// of returns the split of a publication, if its nar is new and all its files are taken over.
func (s *splits) of(p *catalog.Publication, have, lacking []catalog.File) (split, bool) {
	i, ok := s.index[p]
	if !ok || len(have) > 0 || len(lacking) != len(p.Files) {
		return split{}, false
	}
	<-s.each[i].ready
	return s.each[i].split, true
}
