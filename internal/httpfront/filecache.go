package httpfront

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// FileCache keeps regular files open between requests, so that a nar that is asked for often costs no open, stat and close. It
// holds at most its number of idle files; files in use are beyond that number and closed after their last use. A file that was
// replaced or removed is noticed when it is asked for again and its last check is older than the recheck time; until then it
// is served as it was opened. It is safe for concurrent use.
type FileCache struct {
	max     int
	recheck time.Duration

	mu     sync.Mutex
	byPath map[string]*OpenFile
	unused OpenFile // the ring of files without users: next was used last, prev longest ago
	idle   int      // how many those are
	closed bool
}

// OpenFile is a file of a FileCache, held open for its holder until Release.
type OpenFile struct {
	File    *os.File // read it with ReadAt or sendfile only: the file position is shared
	Size    int64
	ModTime time.Time
	Release func() // gives the file back; call it once per Open

	cache   *FileCache
	path    string
	info    fs.FileInfo
	checked time.Time
	users   int
	stale   bool // no longer in byPath: closed by its last user

	prev, next *OpenFile // in cache.unused
}

// NewFileCache makes a cache of at most max unused files (at least 1), whose identity is checked again after recheck.
func NewFileCache(max int, recheck time.Duration) *FileCache {
	c := &FileCache{max: max, recheck: recheck, byPath: make(map[string]*OpenFile)}
	if c.max < 1 {
		c.max = 1
	}
	c.unused.prev, c.unused.next = &c.unused, &c.unused
	return c
}

// Open returns the regular file at path. Errors are those of os.Open, wrapped, or fs.ErrInvalid for what is not a regular file.
func (c *FileCache) Open(path string) (*OpenFile, error) {
	now := time.Now()
	c.mu.Lock()
	f := c.byPath[path]
	if f != nil && now.Sub(f.checked) < c.recheck {
		c.take(f)
		c.mu.Unlock()
		return f, nil
	}
	if f != nil {
		c.take(f)
	}
	c.mu.Unlock()
	if f != nil {
		info, err := os.Stat(path)
		if err == nil && os.SameFile(info, f.info) && info.Size() == f.Size && info.ModTime().Equal(f.ModTime) {
			c.mu.Lock()
			f.checked = now
			c.mu.Unlock()
			return f, nil
		}
		c.mu.Lock()
		c.drop(f)
		c.mu.Unlock()
		f.Release()
	}
	return c.open(path, now)
}

func (c *FileCache) open(path string, now time.Time) (*OpenFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open for serving: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "serve", Path: path, Err: fs.ErrInvalid}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open for serving: %w", err)
	}
	f := &OpenFile{File: file, Size: info.Size(), ModTime: info.ModTime(), cache: c, path: path, info: info, checked: now, users: 1}
	f.Release = f.release
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.byPath[path] != nil { // somebody was faster: this one is for its opener alone
		f.stale = true
		return f, nil
	}
	c.byPath[path] = f
	return f, nil
}

// take adds a user to f. The caller holds mu.
func (c *FileCache) take(f *OpenFile) {
	if f.users++; f.next != nil {
		c.unlink(f)
	}
}

// rest puts f, without users, to the front of the ring. The caller holds mu. The links are in the file itself, because this
// happens once per answer.
func (c *FileCache) rest(f *OpenFile) {
	f.prev, f.next = &c.unused, c.unused.next
	f.prev.next, f.next.prev = f, f
	c.idle++
}

// unlink takes f out of the ring. The caller holds mu.
func (c *FileCache) unlink(f *OpenFile) {
	f.prev.next, f.next.prev = f.next, f.prev
	f.prev, f.next = nil, nil
	c.idle--
}

// drop takes f out of the cache; its last user closes it. The caller holds mu.
func (c *FileCache) drop(f *OpenFile) {
	if !f.stale {
		f.stale = true
		delete(c.byPath, f.path)
	}
}

func (f *OpenFile) release() {
	c := f.cache
	var last *os.File
	c.mu.Lock()
	if f.users--; f.users == 0 {
		switch {
		case f.stale:
			last = f.File
		case c.idle >= c.max:
			oldest := c.unused.prev
			c.unlink(oldest)
			c.drop(oldest)
			last = oldest.File
			c.rest(f)
		default:
			c.rest(f)
		}
	}
	c.mu.Unlock()
	if last != nil {
		last.Close()
	}
}

// Forget drops path, because it was deleted or replaced: the next Open opens it anew. Answers in progress end with the old file.
func (c *FileCache) Forget(path string) {
	c.remove(func(f *OpenFile) bool { return f.path == path }, path)
}

// Trim closes the unused files that were last checked before then, so that deleted files give their space back.
func (c *FileCache) Trim(then time.Time) {
	c.remove(func(f *OpenFile) bool { return f.users == 0 && f.checked.Before(then) }, "")
}

// Close closes the unused files, and lets the others be closed by their last users. Open works afterwards, without keeping.
func (c *FileCache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.remove(func(*OpenFile) bool { return true }, "")
	return nil
}

// remove drops the files for which which is true: only path if it is not empty.
func (c *FileCache) remove(which func(*OpenFile) bool, path string) {
	var files []*os.File
	drop := func(f *OpenFile) {
		if f == nil || !which(f) {
			return
		}
		c.drop(f)
		if f.users == 0 {
			c.unlink(f)
			files = append(files, f.File)
		}
	}
	c.mu.Lock()
	if path != "" {
		drop(c.byPath[path])
	} else {
		for _, f := range c.byPath {
			drop(f)
		}
	}
	c.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
}
