package serve

import "narfold/internal/storepath"

// miss counts that the narinfo of an item was asked for that is certainly not published, and tells whoever may bring it.
func (s *Server) miss(h storepath.HashPart) {
	s.counters.narinfoMisses.Add(1)
	if s.Missed != nil {
		s.Missed(h)
	}
}
