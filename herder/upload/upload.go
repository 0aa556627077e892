// Package upload takes what publishers put over HTTP: nars into a folder of their own until their narinfo comes, and then into the
// store as everything else goes there.
package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"narfold/herder/publish"
	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/objstore"
	"narfold/internal/publishapi"
	"narfold/internal/storepath"
)

// Uploads implements publishapi.Backend. Its fields are set before the first call and not changed afterwards.
type Uploads struct {
	Dir string // for nars whose narinfo has not come
	// Store is the folder of a directory store; "" if there is none.
	Store string
	// Reserve is how many bytes uploads leave free on the file systems of Dir and Store. While they would leave less than twice as
	// much, they are let in a few at a time.
	Reserve   int64
	Catalogue Catalogue
	// Leaser promises to publishers that what is there stays. May be nil: then nothing is promised.
	Leaser  Leaser
	Objects Objects
	// Presigner lets publishers put large nars into the bucket themselves. May be nil: then they are put here.
	Presigner objstore.Presigner
	Queue     Submitter
	Log       *slog.Logger
	// Keep is how long a nar waits for its narinfo.
	Keep time.Duration

	entrance entrance
}

// Catalogue is what uploading needs beyond publishing.
type Catalogue interface {
	Token(ctx context.Context, h catalog.TokenHash) (catalog.Token, error)
	Missing(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
	Reserve(ctx context.Context, wants []catalog.Want) ([]objstore.Key, error)
	AddLog(ctx context.Context, of storepath.Base, k objstore.Key) error
}

// Leaser makes promises; a catalogue does.
type Leaser interface {
	Lease(ctx context.Context, l catalog.Lease, hs []storepath.HashPart) (catalog.Lease, []storepath.HashPart, error)
	RenewLease(ctx context.Context, l catalog.Lease) error
	ReleaseLease(ctx context.Context, l catalog.Lease) error
}

// Objects is where logs are put, and where what was put past this process is read.
type Objects interface {
	objstore.Reader
	objstore.Writer
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
	// Whoever has the text of a token may know what became of it.
	now := time.Now()
	if err := t.Allows(catalog.ScopePublish, now); err != nil {
		if t.Revoked.IsZero() && (t.Expires.IsZero() || now.Before(t.Expires)) {
			return "", fmt.Errorf("%w: %w", publishapi.ErrScope, err)
		}
		return "", fmt.Errorf("%w: %w", publishapi.ErrDenied, err)
	}
	return t.Name, nil
}

// Missing implements publishapi.Backend.
func (u *Uploads) Missing(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error) {
	return u.Catalogue.Missing(ctx, hs)
}

// Publish implements publishapi.Backend. Every file of the narinfo that was staged is read, verified, and kept if it suits all clients.
func (u *Uploads) Publish(ctx context.Context, n *narinfo.Narinfo, by string, wait bool, placed ...compress.Method) (publishapi.Published, error) {
	job := publish.Job{Narinfo: n, Sign: true, Wait: wait, By: by}
	there, err := u.placed(ctx, n.StorePath.Base, placed)
	if err != nil {
		return publishapi.Published{}, err
	}
	job.Sources = there
	var staged []string
	for _, f := range n.Files {
		name := strings.TrimPrefix(f.URL, "nar/")
		if _, err := publishapi.ParseNarName(name); err != nil {
			return publishapi.Published{}, fmt.Errorf("%w: narinfo of %s: %w", publishapi.ErrRefused, n.StorePath, err)
		}
		if _, err := compress.ParseMethod(string(f.Compression)); err != nil {
			return publishapi.Published{}, fmt.Errorf("%w: narinfo of %s: %w", publishapi.ErrRefused, n.StorePath, err)
		}
		if len(there) > 0 && slices.Contains(placed, f.Compression) {
			continue
		}
		// Opened now, so that it may be removed at any time: another narinfo may name the same nar.
		file, err := os.Open(u.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // published already, if it is anywhere
		}
		if err != nil {
			return publishapi.Published{}, fmt.Errorf("open staged nar: %w", err)
		}
		defer file.Close()
		staged = append(staged, name)
		job.Sources = append(job.Sources, publish.Source{Compression: f.Compression, Keep: true, Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(file, 0, 1<<62)), nil
		}})
	}
	r, err := u.Queue.Submit(ctx, job)
	if err != nil {
		return publishapi.Published{}, u.unable(fmt.Errorf("publish %s: %w", n.StorePath, err))
	}
	if r.Err != nil {
		return publishapi.Published{}, u.refusal(r, staged, len(there) > 0)
	}
	for _, name := range staged {
		if err := os.Remove(u.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			u.Log.Warn("staged nar cannot be removed", "file", name, "error", err)
		}
	}
	u.Log.Info("item published", "item", r.Path, "verdict", r.Verdict, "by", by, "nar_bytes", r.NarSize, "stored_bytes", r.Stored)
	return publishapi.Published{Path: r.Path.String(), Verdict: r.Verdict.String()}, nil
}

// refusal says in words of the contract why nothing became of one item.
func (u *Uploads) refusal(r publish.Result, staged []string, placed bool) error {
	switch {
	case errors.Is(r.Err, publish.ErrReferences):
		return &publishapi.MissingError{Path: r.Path, Missing: r.Missing}
	case errors.Is(r.Err, publish.ErrDiffers):
		return fmt.Errorf("%w: %w", publishapi.ErrDiffers, r.Err)
	case errors.Is(r.Err, publish.ErrNoSource):
		return fmt.Errorf("%w: %w", publishapi.ErrNoNar, r.Err)
	case placed && (errors.Is(r.Err, publish.ErrSource) || errors.Is(r.Err, publish.ErrNarHash)):
		return fmt.Errorf("%w: what was put into the bucket is not it; put it to the herder: %w", publishapi.ErrNoNar, r.Err)
	case (errors.Is(r.Err, publish.ErrSource) || errors.Is(r.Err, publish.ErrNarHash)) && u.dropDamaged(staged):
		return fmt.Errorf("%w: it was damaged here; put it again: %w", publishapi.ErrNoNar, r.Err)
	}
	return fmt.Errorf("%w: %w", publishapi.ErrRefused, r.Err)
}

// dropDamaged removes those of the staged nars that do not have the hash of their name any more, and reports whether there were any.
// Staging does not wait for the disk, so that a power cut may leave a name without its bytes.
func (u *Uploads) dropDamaged(staged []string) (dropped bool) {
	for _, name := range staged {
		want, err := publishapi.ParseNarName(name)
		if err != nil {
			continue
		}
		if got, err := digestOf(u.path(name)); err == nil && got == want {
			continue
		}
		if err := os.Remove(u.path(name)); err == nil {
			u.Log.Warn("staged nar was damaged, and is forgotten", "file", name)
			dropped = true
		}
	}
	return dropped
}

func digestOf(name string) (d digest.SHA256, err error) {
	f, err := os.Open(name)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := newHash()
	if _, err := io.Copy(h, f); err != nil {
		return d, err
	}
	return digest.SHA256(h.Sum(nil)), nil
}
