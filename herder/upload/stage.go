package upload

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/durable"
	"narfold/internal/objstore"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// incoming begins the names of files that are being received. Each is locked by whoever receives it: the lock ends with the process.
const incoming = ".incoming-"

// maxLog is the number of bytes above which a log is refused.
const maxLog = 256 << 20

func newHash() hash.Hash { return sha256.New() }

func (u *Uploads) path(name string) string { return filepath.Join(u.Dir, name) }

// Staged implements publishapi.Backend.
func (u *Uploads) Staged(ctx context.Context, name string) (int64, bool) {
	if _, err := publishapi.ParseNarName(name); err != nil {
		return 0, false
	}
	st, err := os.Stat(u.path(name))
	if err != nil {
		return 0, false
	}
	return st.Size(), true
}

// StageNar implements publishapi.Backend.
func (u *Uploads) StageNar(ctx context.Context, name string, file digest.SHA256, body io.Reader, size int64) error {
	if have, ok := u.Staged(ctx, name); ok && have == size {
		// The name is the hash, so that what lies there is what is being sent.
		if _, err := io.Copy(io.Discard, body); err != nil {
			return fmt.Errorf("stage %s: %w: %w", name, publishapi.ErrIncomplete, err)
		}
		return nil
	}
	err := u.receive(body, size, func(temp string, got digest.SHA256) error {
		if got != file {
			return fmt.Errorf("%w: the bytes that came have the hash %s", publishapi.ErrRefused, got.Base32())
		}
		// Not flushed: a nar that a power cut takes away is put again, since its narinfo was not answered.
		return os.Rename(temp, u.path(name))
	})
	if err != nil {
		return u.unable(fmt.Errorf("stage %s: %w", name, err))
	}
	return nil
}

// StageLog implements publishapi.Backend.
func (u *Uploads) StageLog(ctx context.Context, of storepath.Base, body io.Reader, size int64) error {
	if size > maxLog {
		return fmt.Errorf("%w: log of %s has %d bytes, at most %d are kept", publishapi.ErrRefused, of, size, maxLog)
	}
	err := u.receive(body, size, func(temp string, sum digest.SHA256) error {
		k := catalog.LogKey(of)
		// Named before it is written, so that no object is unaccounted for.
		if err := u.Catalogue.AddLog(ctx, of, k); err != nil {
			return err
		}
		body := objstore.Body{Size: size, SHA256: sum, Open: func() (io.ReadCloser, error) { return os.Open(temp) }}
		_, err := u.Objects.Put(ctx, k, body, objstore.IfAbsent)
		if errors.Is(err, objstore.ErrConflict) {
			return nil // the first log stays
		}
		return err
	})
	if err != nil {
		return u.unable(fmt.Errorf("keep log of %s: %w", of, err))
	}
	return nil
}

// receive writes body to a file and hands that to keep, which may move it away; otherwise it is removed.
func (u *Uploads) receive(body io.Reader, size int64, keep func(temp string, sum digest.SHA256) error) error {
	in, err := u.admit(size)
	if err != nil {
		return err
	}
	defer in.leave()
	f, err := os.CreateTemp(u.Dir, incoming)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	h := newHash()
	// Read beyond what was announced too, so that it is not taken for a whole.
	n, err := io.Copy(io.MultiWriter(f, h, in), io.LimitReader(body, size+1))
	switch {
	case durable.IsFull(err):
		return err
	case err != nil:
		return fmt.Errorf("%w after %d of %d bytes: %w", publishapi.ErrIncomplete, n, size, err)
	case n != size:
		return fmt.Errorf("%w: it has %d bytes, and %d were announced", publishapi.ErrRefused, n, size)
	}
	return keep(f.Name(), digest.SHA256(h.Sum(nil)))
}

// Run removes what was staged and never published, and what a killed process was receiving, until ctx ends.
func (u *Uploads) Run(ctx context.Context) error {
	if err := os.MkdirAll(u.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder for uploads: %w", err)
	}
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		if err := u.sweep(time.Now()); err != nil {
			u.Log.Warn("uploads cannot be swept", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// lockGrace is the age below which an unlocked file may be one that has just been made.
const lockGrace = time.Minute

func (u *Uploads) sweep(now time.Time) error {
	entries, err := os.ReadDir(u.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		old := now.Sub(info.ModTime()) > u.Keep
		if strings.HasPrefix(e.Name(), incoming) {
			old = now.Sub(info.ModTime()) > lockGrace && !locked(u.path(e.Name()))
		}
		if !old {
			continue
		}
		if err := os.Remove(u.path(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		u.Log.Info("upload forgotten", "file", e.Name(), "bytes", info.Size(), "since", info.ModTime())
	}
	return nil
}

func locked(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return true
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
