package feedserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/digest"
	"narfold/internal/feed"
	"narfold/internal/objstore"
)

// maxWait bounds how long a request waits for news.
const maxWait = 60 * time.Second

// errNotLoaded says that the feed has not been read from the catalogue yet.
var errNotLoaded = errors.New("the change feed is being read")

// Register adds the feed's routes to mux.
func (s *Server) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /feed/key.pub", s.publicKey)
	mux.HandleFunc("GET /feed/head", s.serveHead)
	mux.HandleFunc("GET /feed", s.since)
	mux.HandleFunc("GET /feed/segments/{number}", s.segment)
	mux.HandleFunc("GET /feed/manifest", s.manifest)
	mux.HandleFunc("GET /feed/snapshot", s.shownSnapshot)
	mux.HandleFunc("GET /feed/snapshots/{name}", s.snapshotFile)
}

const textType = "text/plain; charset=utf-8"

func send(w http.ResponseWriter, cacheControl string, text []byte) {
	h := w.Header()
	h.Set("Content-Type", textType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", cacheControl)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.Write(text)
}

// refuse answers a request that has no other answer.
func refuse(w http.ResponseWriter, code int, why string) {
	w.Header().Set("Cache-Control", "no-store")
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	http.Error(w, why, code)
}

// fail answers a request that should have been served.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, objstore.ErrUnavailable):
		s.log.Warn("request for the change feed cannot be answered now", "path", r.URL.Path, "error", err)
		refuse(w, http.StatusServiceUnavailable, "the feed cannot be read now")
	case errors.Is(err, errNotLoaded), r.Context().Err() != nil, errors.Is(err, context.Canceled):
		refuse(w, http.StatusServiceUnavailable, "the feed cannot be read now")
	default:
		s.log.Error("request for the change feed cannot be answered", "path", r.URL.Path, "error", err)
		refuse(w, http.StatusInternalServerError, http.StatusText(http.StatusInternalServerError))
	}
}

func (s *Server) publicKey(w http.ResponseWriter, _ *http.Request) {
	send(w, "no-cache", []byte(s.key.Public().String()+"\n"))
}

func (s *Server) serveHead(w http.ResponseWriter, r *http.Request) {
	text, err := s.sign(time.Now())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	send(w, "no-cache", text)
}

// sign returns the head, signed anew if the feed has grown or a second has passed.
func (s *Server) sign(now time.Time) ([]byte, error) {
	p := s.place()
	if !p.loaded {
		return nil, errNotLoaded
	}
	h := feed.Head{Origin: p.origin, Point: p.end(), Time: now.UTC().Truncate(time.Second)}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Of two that sign at once the further one stays, so that nobody sees the feed go back.
	if s.head == nil || h.Sequence > s.signed.Sequence || h.Sequence == s.signed.Sequence && h.Time.After(s.signed.Time) {
		s.head, s.signed = h.Sign(s.key), h
	}
	return s.head, nil
}

// since answers with what came after a record, and waits for it if asked to.
func (s *Server) since(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after, err := parseNumber(q.Get("since"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "since: want the number of a record, or 0")
		return
	}
	wait := time.Duration(0)
	if q.Has("wait") {
		seconds, err := parseNumber(q.Get("wait"))
		if err != nil {
			refuse(w, http.StatusBadRequest, "wait: want a number of seconds")
			return
		}
		wait = min(time.Duration(min(seconds, 3600))*time.Second, maxWait)
	}
	p := s.place()
	if wait > 0 && r.Method == http.MethodGet {
		p = s.await(r.Context(), after, wait)
	}
	switch {
	case !p.loaded:
		s.fail(w, r, errNotLoaded)
	case after > p.end().Sequence:
		refuse(w, http.StatusConflict, fmt.Sprintf("the feed ends at %d", p.end().Sequence))
	case after >= p.sealed.Sequence:
		send(w, "no-store", p.stretch(p.at(after)).Text())
	default:
		text, err := s.fromSegment(r.Context(), after)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		send(w, "no-store", text)
	}
}

// await returns the place of the feed when it has a record after the given one, or when there is no more time.
func (s *Server) await(ctx context.Context, after int64, wait time.Duration) place {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		p := s.place()
		if p.ended || p.loaded && after != p.end().Sequence {
			return p
		}
		select {
		case <-p.changed:
		case <-timeout.C:
			return s.place()
		case <-ctx.Done():
			return p
		}
	}
}

// fromSegment returns the rest of the segment that holds the record after the given one.
func (s *Server) fromSegment(ctx context.Context, after int64) ([]byte, error) {
	text, _, err := s.read(ctx, after/feed.SegmentRecords+1)
	if err != nil {
		return nil, err
	}
	skip := int(after % feed.SegmentRecords)
	if skip == 0 {
		return text, nil
	}
	// Four lines of header, the records, the end, and what is behind its LF.
	const header, behind = 4, 2
	lines := bytes.SplitAfter(text, []byte("\n"))
	if len(lines) != header+feed.SegmentRecords+behind {
		return nil, fmt.Errorf("read segment of the change feed: %w", feed.ErrFormat)
	}
	lines = lines[header : len(lines)-behind]
	origin := s.place().origin
	at := feed.Begin(origin)
	if number := after / feed.SegmentRecords; number > 0 {
		before, err := s.catalogue.FeedSegment(ctx, number)
		if err != nil {
			return nil, err
		}
		at = feed.Point{Sequence: before.Last, Chain: before.Chain}
	}
	for _, l := range lines[:skip] {
		at = at.Next(l)
	}
	st := feed.Stretch{Origin: origin, Before: at, Lines: lines[skip:]}
	return st.Text(), nil
}

// read returns the text of a segment.
func (s *Server) read(ctx context.Context, number int64) ([]byte, digest.SHA256, error) {
	f, err := s.catalogue.FeedSegment(ctx, number)
	if err != nil {
		return nil, digest.SHA256{}, err
	}
	text, err := ReadSegment(ctx, s.store, f)
	return text, f.SHA256, err
}

func (s *Server) segment(w http.ResponseWriter, r *http.Request) {
	number, err := parseNumber(r.PathValue("number"))
	if err != nil || number == 0 {
		refuse(w, http.StatusBadRequest, "want the number of a segment, from 1")
		return
	}
	text, sum, err := s.read(r.Context(), number)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		refuse(w, http.StatusNotFound, "this segment is not whole yet")
		return
	case err != nil:
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", textType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("ETag", `"`+sum.Hex()+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}

// manifest writes the URLs of what does not change.
func (s *Server) manifest(w http.ResponseWriter, r *http.Request) {
	select {
	case s.manifests <- struct{}{}:
		defer func() { <-s.manifests }()
	default: // each reads the whole catalogue
		refuse(w, http.StatusServiceUnavailable, "others are reading the manifest")
		return
	}
	w.Header().Set("Content-Type", textType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache")
	if r.Method == http.MethodHead {
		return
	}
	if err := s.writeManifest(r.Context(), w); err != nil {
		if r.Context().Err() == nil {
			s.log.Error("manifest is cut off", "error", err)
		}
		// Some of it may have gone out with a success: the client must see that it is not whole.
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) writeManifest(ctx context.Context, w io.Writer) error {
	m := newManifest(w)
	for it, err := range s.catalogue.Items(ctx, 0) {
		if err == nil {
			err = m.item(it)
		}
		if err != nil {
			return err
		}
	}
	shown, err := s.shown(ctx)
	if err != nil {
		return err
	}
	parts, err := s.index(ctx, shown)
	if err != nil {
		return err
	}
	if err := s.manifestOfFeed(ctx, m, shown, parts); err != nil {
		return err
	}
	_, err = m.end()
	return err
}

// shownSnapshot answers with the snapshot to begin with.
func (s *Server) shownSnapshot(w http.ResponseWriter, r *http.Request) {
	text, err := readSmall(r.Context(), s.store, snapshotHead)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		refuse(w, http.StatusNotFound, "there is no snapshot yet")
	case err != nil:
		s.fail(w, r, err)
	default:
		send(w, "no-cache", text)
	}
}

var snapshotName = regexp.MustCompile(`^[0-9a-f]{64}\.(zst|index)$`)

// snapshotFile answers with a file of a snapshot.
func (s *Server) snapshotFile(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !snapshotName.MatchString(name) {
		refuse(w, http.StatusBadRequest, "want the name of a snapshot's file, which is its hash")
		return
	}
	text, err := readNamed(r.Context(), s.store, snapshotPrefix+objstore.Key(name))
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		refuse(w, http.StatusNotFound, "this file is of no snapshot any more, or was of none: begin with the one that is shown now")
		return
	case err != nil:
		s.fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/zstd")
	if strings.HasSuffix(name, indexSuffix) {
		h.Set("Content-Type", textType)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("ETag", `"`+name[:64]+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}

// parseNumber reads a number as docs/feed.md writes them.
func parseNumber(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%.40q is not a number", s)
	}
	return n, nil
}
