package follow

import (
	"sync"
	"time"
)

// Stats are what a follower has done since it was made.
type Stats struct {
	Upstream  string
	Rounds    uint64 // that ended well
	Failed    uint64 // rounds that did not
	Published uint64
	Refused   uint64 // counted in each round anew
	NarBytes  uint64
	// Owed is how many items could not be taken in the last round.
	Owed int64
	// Last is when the last round that ended well began: how old what is here may be. Zero before the first.
	Last time.Time
	// Running tells whether a round is under way.
	Running bool
}

// state is Stats that are being counted.
type state struct {
	mu    sync.Mutex
	s     Stats
	begun time.Time
}

func (s *state) begin(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Running, s.begun = true, now
}

func (s *state) took(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Published++
	s.s.NarBytes += uint64(bytes)
}

func (s *state) end(sum *Summary, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Running = false
	s.s.Refused += uint64(sum.Refused + sum.Differs)
	if err != nil {
		s.s.Failed++
		return
	}
	s.s.Rounds++
	s.s.Owed = sum.Refused + sum.Postponed
	s.s.Last = s.begun
}

// Stats returns what was done so far.
func (f *Follower) Stats() Stats {
	f.state.mu.Lock()
	defer f.state.mu.Unlock()
	s := f.state.s
	s.Upstream = f.name()
	return s
}
