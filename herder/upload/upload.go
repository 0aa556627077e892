// Package upload takes what publishers put over HTTP: nars into a folder of their own until their narinfo comes, and then into the
// store as everything else goes there.
package upload

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/durable"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// Uploads implements publishapi.Backend.
type Uploads struct {
	Dir       string // for nars whose narinfo has not come
	Reserve   int64  // bytes to keep free on its file system
	Catalogue Catalogue
	Objects   objstore.Writer // for logs
	Queue     Submitter
	Log       *slog.Logger
	// Keep is how long a nar waits for its narinfo.
	Keep time.Duration
}

// Catalogue is what uploading needs beyond publishing.
type Catalogue interface {
	Token(ctx context.Context, h catalog.TokenHash) (catalog.Token, error)
	Missing(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
	AddLog(ctx context.Context, of storepath.Base, k objstore.Key) error
}

// Submitter publishes one item; publish.Queue does.
type Submitter interface {
	Submit(ctx context.Context, job publish.Job) (publish.Result, error)
}

var _ publishapi.Backend = (*Uploads)(nil)

// Authorize implements publishapi.Backend.
func (u *Uploads) Authorize(ctx context.Context, token string) (string, error) {
	if token == "" {
		return "", fmt.Errorf("%w: publishing needs a token, as the password of Basic authentication or as a Bearer", publishapi.ErrDenied)
	}
	t, err := u.Catalogue.Token(ctx, catalog.HashToken(token))
	if errors.Is(err, catalog.ErrNotFound) {
		return "", fmt.Errorf("%w: the token is not known", publishapi.ErrDenied)
	}
	if err != nil {
		return "", err
	}
	if err := t.Allows(catalog.ScopePublish, time.Now()); err != nil {
		return "", fmt.Errorf("%w: %w", publishapi.ErrDenied, err)
	}
	return t.Name, nil
}

// Missing implements publishapi.Backend.
func (u *Uploads) Missing(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error) {
	return u.Catalogue.Missing(ctx, hs)
}

// StageNar implements publishapi.Backend.
func (u *Uploads) StageNar(ctx context.Context, name string, file digest.SHA256, body io.Reader, size int64) (err error) {
	if err := u.room(size); err != nil {
		return fmt.Errorf("stage %s: %w", name, err)
	}
	if have, ok := u.Staged(ctx, name); ok && have == size {
		// The name is the hash, so that what lies there is what is being sent.
		_, err := io.Copy(io.Discard, body)
		return unavailable(err)
	}
	f, err := os.CreateTemp(u.Dir, ".incoming-")
	if err != nil {
		return full(fmt.Errorf("stage %s: %w", name, err))
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), body)
	if err != nil {
		if durable.IsFull(err) {
			return full(fmt.Errorf("stage %s: %w", name, err))
		}
		return fmt.Errorf("%w: stage %s: the upload broke off after %d of %d bytes: %w", publishapi.ErrRefused, name, n, size, err)
	}
	if n != size {
		return fmt.Errorf("%w: stage %s: it has %d bytes, and %d were announced", publishapi.ErrRefused, name, n, size)
	}
	if got := digest.SHA256(h.Sum(nil)); got != file {
		return fmt.Errorf("%w: stage %s: the bytes that came have the hash %s", publishapi.ErrRefused, name, got.Base32())
	}
	// Not flushed: a nar that a power cut takes away is put again, since its narinfo was not answered.
	if err := os.Rename(f.Name(), u.path(name)); err != nil {
		return full(fmt.Errorf("stage %s: %w", name, err))
	}
	return nil
}

// room refuses what would use up the reserve: reading goes on, and so does what publishing needs.
func (u *Uploads) room(size int64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(u.Dir, &s); err != nil {
		return fmt.Errorf("look for room in %s: %w", u.Dir, err)
	}
	free := int64(s.Bavail) * s.Bsize
	// Once staged and once stored, if the store is on this file system.
	if free-2*size < u.Reserve {
		return fmt.Errorf("%w: %d bytes are free, %d are kept in reserve", publishapi.ErrFull, free, u.Reserve)
	}
	return nil
}

func full(err error) error {
	if durable.IsFull(err) {
		return fmt.Errorf("%w: %w", publishapi.ErrFull, err)
	}
	return err
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", publishapi.ErrUnavailable, err)
}

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

// Publish implements publishapi.Backend.
func (u *Uploads) Publish(ctx context.Context, n *narinfo.Narinfo, by string, wait bool) (publishapi.Published, error) {
	job := publish.Job{Narinfo: n, Sign: true, Wait: wait, By: by}
	f := n.Files[len(n.Files)-1] // Nix writes one
	name := strings.TrimPrefix(f.URL, "nar/")
	if _, err := publishapi.ParseNarName(name); err != nil {
		return publishapi.Published{}, fmt.Errorf("%w: %w", publishapi.ErrRefused, err)
	}
	if _, err := compress.ParseMethod(string(f.Compression)); err != nil {
		return publishapi.Published{}, fmt.Errorf("%w: %w", publishapi.ErrRefused, err)
	}
	// Opened now, so that it may be removed at any time: another narinfo may name the same nar.
	staged, err := os.Open(u.path(name))
	switch {
	case err == nil:
		defer staged.Close()
		job.Sources = []publish.Source{{Compression: f.Compression, Keep: true, Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(staged, 0, 1<<62)), nil
		}}}
	case !errors.Is(err, fs.ErrNotExist):
		return publishapi.Published{}, fmt.Errorf("open staged nar: %w", err)
	}
	r, err := u.Queue.Submit(ctx, job)
	if err != nil {
		switch {
		case errors.Is(err, objstore.ErrFull), errors.Is(err, catalog.ErrFull), durable.IsFull(err):
			return publishapi.Published{}, fmt.Errorf("%w: %w", publishapi.ErrFull, err)
		case errors.Is(err, objstore.ErrUnavailable), errors.Is(err, publish.ErrStopped):
			return publishapi.Published{}, unavailable(err)
		}
		return publishapi.Published{}, err
	}
	switch {
	case errors.Is(r.Err, publish.ErrReferences):
		return publishapi.Published{}, &publishapi.MissingError{Path: r.Path, Missing: r.Missing}
	case errors.Is(r.Err, publish.ErrDiffers):
		return publishapi.Published{}, fmt.Errorf("%w: %w", publishapi.ErrDiffers, r.Err)
	case errors.Is(r.Err, publish.ErrNoSource):
		return publishapi.Published{}, fmt.Errorf("%w: %w", publishapi.ErrNoNar, r.Err)
	case r.Err != nil:
		return publishapi.Published{}, fmt.Errorf("%w: %w", publishapi.ErrRefused, r.Err)
	}
	if err := os.Remove(u.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		u.Log.Warn("staged nar cannot be removed", "file", name, "error", err)
	}
	u.Log.Info("item published", "item", r.Path, "verdict", r.Verdict, "by", by, "nar_bytes", r.NarSize, "stored_bytes", r.Stored)
	return publishapi.Published{Path: r.Path.String(), Verdict: r.Verdict.String()}, nil
}

// StageLog implements publishapi.Backend.
func (u *Uploads) StageLog(ctx context.Context, of storepath.Base, body io.Reader, size int64) error {
	const most = 256 << 20
	if size > most {
		return fmt.Errorf("%w: log of %s has %d bytes, at most %d are kept", publishapi.ErrRefused, of, size, most)
	}
	if err := u.room(size); err != nil {
		return fmt.Errorf("keep log of %s: %w", of, err)
	}
	f, err := os.CreateTemp(u.Dir, ".incoming-")
	if err != nil {
		return full(fmt.Errorf("keep log of %s: %w", of, err))
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	if n, err := io.Copy(io.MultiWriter(f, h), body); err != nil || n != size {
		return full(fmt.Errorf("%w: keep log of %s: have %d of %d bytes: %w", publishapi.ErrRefused, of, n, size, err))
	}
	k := catalog.LogKey(of)
	// Named before it is written, so that no object is unaccounted for.
	if err := u.Catalogue.AddLog(ctx, of, k); err != nil {
		return err
	}
	_, err = u.Objects.Put(ctx, k, objstore.Body{Size: size, SHA256: digest.SHA256(h.Sum(nil)), Open: func() (io.ReadCloser, error) { return os.Open(f.Name()) }}, objstore.IfAbsent)
	if errors.Is(err, objstore.ErrConflict) {
		return nil // the first log stays
	}
	if err != nil {
		return full(unavailable(err))
	}
	return nil
}

// Run removes what was staged and never published, until ctx ends.
func (u *Uploads) Run(ctx context.Context) error {
	if err := os.MkdirAll(u.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder for uploads: %w", err)
	}
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		if err := u.sweep(time.Now().Add(-u.Keep)); err != nil {
			u.Log.Warn("uploads cannot be swept", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (u *Uploads) sweep(before time.Time) error {
	entries, err := os.ReadDir(u.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().After(before) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.Remove(u.path(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		u.Log.Info("upload forgotten", "file", e.Name(), "bytes", info.Size(), "since", info.ModTime())
	}
	return nil
}
