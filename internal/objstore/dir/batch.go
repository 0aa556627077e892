package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"narfold/internal/durable"
	"narfold/internal/objstore"
)

// Batch returns a batch whose Commit flushes the whole file system once. It may be used from several goroutines. Beside its methods
// it has Delete, with the same delay.
//
// What is put has two names until Commit: its key, and one in this process's folder that says how long it must be and what it must
// hash to. After a power cut the next Open compares, and removes what is damaged (see Withdrawn); and if a Commit fails, what it
// was to make durable is removed likewise and every later call of that Batch fails: begin another and put everything again.
func (s *Store) Batch() objstore.Batch {
	b := &batch{s: s, dirs: make(map[string]bool)}
	// A file of its own, opened before any write: see durable.SyncFS. The collector closes it with the batch.
	b.root, b.err = s.openAt(".", unix.O_RDONLY|unix.O_DIRECTORY)
	return b
}

type batch struct {
	s    *Store
	root *os.File

	committing sync.Mutex // one Commit at a time; it may wait for the disk, and is taken before mu

	mu     sync.Mutex
	err    error // why the batch cannot be used any more
	latest *openFolder
	kept   []string        // the second names of what was put since the last Commit
	dirs   map[string]bool // the folders in which names changed since then
}

func (b *batch) broken() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return fmt.Errorf("this batch is broken: %w", b.err)
	}
	return nil
}

// Put is Store.Put without the flush.
func (b *batch) Put(ctx context.Context, k objstore.Key, body objstore.Body, c objstore.Condition) (objstore.Info, error) {
	err := b.broken()
	var info objstore.Info
	if err == nil {
		info, err = b.s.put(ctx, k, body, c, b)
	}
	return info, wrap("put", k, err)
}

// Delete is Store.Delete without the flush.
func (b *batch) Delete(ctx context.Context, k objstore.Key) error {
	err := b.broken()
	if err == nil {
		err = b.s.remove(ctx, k, b)
	}
	return wrap("delete", k, err)
}

// openFolder is a folder that several Puts use.
type openFolder struct {
	*os.File
	dir   string
	users int // and one for being the batch's latest
}

// folder opens a folder, which is made if it is not there, or returns the one of the Put before: most go where the last one went.
func (b *batch) folder(dir string) (*openFolder, error) {
	b.mu.Lock()
	if f := b.latest; f != nil && f.dir == dir {
		f.users++
		b.mu.Unlock()
		return f, nil
	}
	b.mu.Unlock()
	file, err := b.s.makeFolder(dir, false)
	if err != nil {
		return nil, err
	}
	f := &openFolder{file, dir, 2}
	b.mu.Lock()
	last := b.latest
	b.latest = f
	b.mu.Unlock()
	b.release(last)
	return f, nil
}

// done ends a use of f. If it came to err the folder may be gone, and is opened anew the next time.
func (b *batch) done(f *openFolder, err error) {
	if err != nil {
		b.mu.Lock()
		last := b.latest
		if last == f {
			b.latest = nil
		} else {
			last = nil
		}
		b.mu.Unlock()
		b.release(last)
	}
	b.release(f)
}

func (b *batch) release(f *openFolder) {
	if f == nil {
		return
	}
	b.mu.Lock()
	f.users--
	last := f.users == 0
	b.mu.Unlock()
	if last {
		f.Close()
	}
}

// touched notes that names in a folder changed.
func (b *batch) touched(dir string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dirs[dir] = true
}

// name gives a staged file its name without flushing. What replaces another object is flushed first, because taking it back after a
// crash would not bring the other back.
func (b *batch) name(st *staged, at int, k objstore.Key, c objstore.Condition) error {
	s := b.s
	dir, base := split(k)
	defer b.touched(dir)
	if c.IfMatch == "" {
		linked, err := b.link(st, at, base, k)
		switch {
		case err != nil, linked:
			return err
		case c.IfAbsent:
			return s.lost(at, k, base, c, b)
		}
	}
	if err := st.flush(); err != nil {
		return err
	}
	return s.rename(st, at, k, base, c, b)
}

// link adds the key as a second name and reports whether it was free.
func (b *batch) link(st *staged, at int, base string, k objstore.Key) (bool, error) {
	tmp := int(b.s.tmp.Fd())
	kept, recognisable := uncommitted{st.seq, st.stat.Size, st.sum, k}.fileName()
	if !recognisable {
		// The key is too long for a file name, or nobody has hashed the file: this one is flushed by itself.
		if err := st.flush(); err != nil {
			return false, err
		}
	} else if st.temp != kept {
		if err := unix.Renameat(tmp, st.temp, tmp, kept); err != nil {
			return false, err
		}
		st.temp = kept
	}
	err := unix.Linkat(tmp, st.temp, at, base, 0)
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil || !recognisable {
		return err == nil, err
	}
	b.mu.Lock()
	if err = b.err; err == nil {
		b.kept = append(b.kept, kept)
	}
	b.mu.Unlock()
	if err != nil { // a Commit failed meanwhile
		b.s.takeBack(k, tmp, kept)
		return false, fmt.Errorf("this batch is broken: %w", err)
	}
	st.temp = "" // so that it stays
	return true, nil
}

// Commit flushes the file system. Puts may go on meanwhile; what they put is for the next Commit.
func (b *batch) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.committing.Lock()
	defer b.committing.Unlock()
	b.mu.Lock()
	broken, kept, dirs := b.err, b.kept, b.dirs
	b.kept, b.dirs = nil, make(map[string]bool)
	b.mu.Unlock()
	if broken != nil {
		return fmt.Errorf("commit batch: this batch is broken: %w", broken)
	}
	if len(kept) == 0 && len(dirs) == 0 {
		return nil
	}
	err := durable.SyncFS(b.root)
	if errors.Is(err, errors.ErrUnsupported) {
		err = b.flushEach(kept, dirs)
	}
	if err != nil {
		b.mu.Lock()
		b.err = err
		kept = append(kept, b.kept...) // the next Commit would not come to them
		b.kept = nil
		b.mu.Unlock()
		for _, name := range kept {
			if k, ok := parseUncommitted(name); ok {
				b.s.takeBack(k.key, int(b.s.tmp.Fd()), name)
			}
		}
	}
	for _, name := range kept {
		b.s.dropTemp(name)
	}
	if err != nil {
		return fmt.Errorf("commit batch: %w", class(err))
	}
	return nil
}

// flushEach flushes file by file and folder by folder, where the kernel has no SyncFS.
func (b *batch) flushEach(kept []string, dirs map[string]bool) error {
	for _, name := range kept {
		if err := flushFile(int(b.s.tmp.Fd()), name); err != nil {
			return err
		}
	}
	for dir := range dirs {
		if err := b.s.flushAbove(dir); err != nil {
			return err
		}
	}
	return nil
}

// flushAbove flushes dir and every folder above it: any of them may be new.
func (s *Store) flushAbove(dir string) error {
	for {
		if err := s.flushNearest(dir); err != nil || dir == "" {
			return err
		}
		dir, _ = split(objstore.Key(dir))
	}
}

func flushFile(at int, name string) error {
	f, err := openBelow(at, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
