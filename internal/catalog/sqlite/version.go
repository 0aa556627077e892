package sqlite

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A server asks for the version at every look-up that might be a miss. PRAGMA data_version takes 3 microseconds, most of a request; what
// it looks at is the header of the write-ahead log's index, which all processes share in memory and which every commit changes before
// it returns (sqlite.org/walformat.html, section 2.1: two copies of 48 bytes, equal unless one is being written). Reading it where
// it lies takes 0.03.

const (
	indexHeader = 48
	headerWords = indexHeader / 4
)

// logIndex is the mapped beginning of a write-ahead log's index.
type logIndex struct {
	file *os.File
	inode
	header *[2 * headerWords]uint32
	users  int
}

type inode struct{ dev, ino uint64 }

// logIndexes are all that this process has mapped. POSIX drops all locks that a process has on a file when it closes any descriptor
// of it, and SQLite's locks are of that kind: so a file is closed here only when its last name is gone, upon which nobody uses it.
var logIndexes struct {
	mu  sync.Mutex
	all []*logIndex
}

// mapIndex maps the index of the write-ahead log of the catalogue at path, which a connection must have open.
func mapIndex(path string) (*logIndex, error) {
	logIndexes.mu.Lock()
	defer logIndexes.mu.Unlock()
	sweepIndexes()
	var st unix.Stat_t
	if err := unix.Stat(path+"-shm", &st); err != nil {
		return nil, fmt.Errorf("find the log's index: %w", err)
	}
	id := inode{uint64(st.Dev), st.Ino}
	for _, x := range logIndexes.all {
		if x.inode == id {
			x.users++
			return x, nil
		}
	}
	// It is SQLite's to write; a descriptor that may only read is enough to map it.
	f, err := os.OpenFile(path+"-shm", os.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the log's index: %w", err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the log's index: %w", err) // and f stays open, see above
	}
	x := &logIndex{file: f, inode: id, header: (*[2 * headerWords]uint32)(unsafe.Pointer(unsafe.SliceData(b))), users: 1}
	logIndexes.all = append(logIndexes.all, x)
	return x, nil
}

// sweepIndexes closes what nobody uses and nobody can open any more.
func sweepIndexes() {
	kept := logIndexes.all[:0]
	for _, x := range logIndexes.all {
		var st unix.Stat_t
		if x.users == 0 && unix.Fstat(int(x.file.Fd()), &st) == nil && st.Nlink == 0 {
			unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(x.header)), os.Getpagesize()))
			x.file.Close()
			continue
		}
		kept = append(kept, x)
	}
	clear(logIndexes.all[len(kept):])
	logIndexes.all = kept
}

func (x *logIndex) release() {
	logIndexes.mu.Lock()
	defer logIndexes.mu.Unlock()
	x.users--
	sweepIndexes()
}

var versionSeed = maphash.MakeSeed()

// version returns a number that every commit changes, or false while one is being written.
func (x *logIndex) version() (int64, bool) {
	var copies [2][indexHeader]byte
	for i := range copies {
		for w := range headerWords {
			binary.NativeEndian.PutUint32(copies[i][4*w:], atomic.LoadUint32(&x.header[i*headerWords+w]))
		}
	}
	return int64(maphash.Bytes(versionSeed, copies[0][:])), copies[0] == copies[1]
}

// Version implements catalog.Reader.
func (db *DB) Version(ctx context.Context) (int64, error) {
	for range 100 {
		if v, whole := db.index.version(); whole {
			return v, nil
		}
	}
	// A writer was stopped in between, and may have been killed there: SQLite knows what to do.
	db.watching.Lock()
	defer db.watching.Unlock()
	return scalar(db.watcher, "PRAGMA data_version")
}
