package source

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
)

// shelf keeps narinfos that came over a network between the moment they are learned and their turn in the list, in a temporary file
// without a name, so that none is requested twice and memory does not hold them.
type shelf struct {
	mu   sync.Mutex
	file *os.File
	end  int64
}

// newShelf makes a shelf in dir, or in os.TempDir.
func newShelf(dir string) (*shelf, error) {
	f, err := os.CreateTemp(dir, "narfold-narinfos-*")
	if err != nil {
		return nil, fmt.Errorf("make a file for narinfos: %w", err)
	}
	// From here on the file goes when the process does.
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a file for narinfos: %w", err)
	}
	return &shelf{file: f}, nil
}

// put returns where text is kept.
func (s *shelf) put(text []byte) (at int64, err error) {
	record := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text)))
	record = append(record, text...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.file.WriteAt(record, s.end); err != nil {
		return 0, fmt.Errorf("keep narinfo: %w", err)
	}
	at, s.end = s.end, s.end+int64(len(record))
	return at, nil
}

// get returns what was put at the place at.
func (s *shelf) get(at int64) ([]byte, error) {
	var size [4]byte
	if _, err := s.file.ReadAt(size[:], at); err != nil {
		return nil, fmt.Errorf("fetch kept narinfo: %w", err)
	}
	text := make([]byte, binary.LittleEndian.Uint32(size[:]))
	if _, err := s.file.ReadAt(text, at+4); err != nil {
		return nil, fmt.Errorf("fetch kept narinfo: %w", err)
	}
	return text, nil
}

func (s *shelf) close() error { return s.file.Close() }
