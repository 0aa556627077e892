package dir

import (
	"hash/fnv"

	"golang.org/x/sys/unix"

	"narfold/internal/objstore"
)

// A lock is taken around each step that may replace or remove a file, so that no other such step comes between the comparison of
// an ETag and the rename that relies on it. Keys share stripes: a mutex holds off this process, and a lock on one byte of a file
// (of the open file description, fcntl(2)) holds off others and goes away with a process that dies. Nothing slow is done under it.

func stripeOf(k objstore.Key) int {
	h := fnv.New32a()
	h.Write([]byte(k))
	return int(h.Sum32() % stripes)
}

func (s *Store) lock(stripe int) error {
	s.stripe[stripe].Lock()
	if err := s.rangeLock(stripe, unix.F_WRLCK); err != nil {
		s.stripe[stripe].Unlock()
		return err
	}
	return nil
}

func (s *Store) unlock(stripe int) {
	s.rangeLock(stripe, unix.F_UNLCK) // cannot fail on a byte that is locked
	s.stripe[stripe].Unlock()
}

func (s *Store) rangeLock(stripe int, kind int16) error {
	for {
		err := unix.FcntlFlock(s.locks.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: kind, Start: int64(stripe), Len: 1})
		if err != unix.EINTR {
			return err
		}
	}
}

// locked runs f under the lock of k.
func (s *Store) locked(k objstore.Key, f func() error) error {
	stripe := stripeOf(k)
	if err := s.lock(stripe); err != nil {
		return err
	}
	defer s.unlock(stripe)
	return f()
}
