package publishapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/narinfo"
	"narfold/internal/storepath"
)

// Backend is what the herder does with what is put. Its errors wrap those of this package; any other is an internal error, logged and
// not told.
type Backend interface {
	// Authorize returns who holds the token, if it allows publishing. It fails with ErrDenied if the token is not good, and with
	// ErrScope if it is good for something else.
	Authorize(ctx context.Context, token string) (by string, err error)
	// StageNar keeps a nar until its narinfo comes. It reads body to its end, checks that it has the hash, and keeps nothing else.
	StageNar(ctx context.Context, name string, file digest.SHA256, body io.Reader, size int64) error
	// Staged returns the size of a nar that was staged, and whether it was.
	Staged(ctx context.Context, name string) (int64, bool)
	// Place tells where a compressed nar of an item may be put. A backend that wants it staged returns the zero Place.
	Place(ctx context.Context, item storepath.Base, m compress.Method, size int64) (Place, error)
	// Publish publishes the item of a narinfo whose nars were staged or, in these compressions, placed, or are published already.
	Publish(ctx context.Context, n *narinfo.Narinfo, by string, wait bool, placed ...compress.Method) (Published, error)
	// StageLog keeps the build log of a derivation or output.
	StageLog(ctx context.Context, of storepath.Base, body io.Reader, size int64) error
	// Missing returns those of hs that are not published, in the order given.
	Missing(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
	// Promise is Missing, and promises that the others stay, by a new lease if that is 0. It fails with ErrLeaseOver if the lease is over, or
	// somebody else's. A backend that promises nothing returns the zero Lease.
	Promise(ctx context.Context, by string, lease int64, hs []storepath.HashPart) (Lease, []storepath.HashPart, error)
	// RenewLease and ReleaseLease are about a lease of by.
	RenewLease(ctx context.Context, by string, lease int64) (Lease, error)
	ReleaseLease(ctx context.Context, by string, lease int64) error
}

// Handler answers the requests of the contract, and hands those that only read to next.
func Handler(b Backend, next http.Handler, log *slog.Logger) http.Handler {
	s := &server{b, log}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /nar/{name}", s.with(s.putNar))
	mux.HandleFunc("PUT /log/{of}", s.with(s.putLog))
	mux.HandleFunc("PUT /nix-cache-info", s.with(s.putCacheInfo))
	mux.HandleFunc("PUT /{file}", s.with(s.putNarinfo))
	mux.HandleFunc("POST /api/v1/missing", s.with(s.missing))
	mux.HandleFunc("POST /api/v1/place", s.with(s.place))
	mux.HandleFunc("POST /api/v1/lease/{id}", s.with(s.renewLease))
	mux.HandleFunc("DELETE /api/v1/lease/{id}", s.with(s.releaseLease))
	mux.HandleFunc("GET /nar/{name}", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodHead || token(r) == "" || !s.staged(w, r) {
			next.ServeHTTP(w, r)
		}
	})
	mux.Handle("GET /", next)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", "GET, HEAD")
		s.fail(w, r, http.StatusMethodNotAllowed, fmt.Errorf("%w: %s is not for this path", ErrRefused, r.Method))
	})
	return mux
}

type server struct {
	backend Backend
	log     *slog.Logger
}

// token returns the token of a request, or "".
func token(r *http.Request) string {
	if scheme, t, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(t)
	}
	_, password, _ := r.BasicAuth()
	return password
}

// with authorizes, and answers with the error that f returns, if any.
func (s *server) with(f func(w http.ResponseWriter, r *http.Request, by string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		by, err := s.backend.Authorize(r.Context(), token(r))
		if err == nil {
			err = f(w, r, by)
		}
		if err != nil {
			s.fail(w, r, 0, err)
		}
	}
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	answer := Error{Code: "internal", Message: "internal error; the herder's log says more"}
	code := http.StatusInternalServerError
	for _, c := range codes {
		if errors.Is(err, c.err) {
			answer.Code, answer.Message, code = c.word, err.Error(), c.status
			break
		}
	}
	if status != 0 {
		code = status
	}
	var missing *MissingError
	if errors.As(err, &missing) {
		answer.Missing = missing.Missing
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		code = http.StatusRequestEntityTooLarge
	}
	switch {
	case code == http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="narfold", charset="UTF-8"`)
	case code == http.StatusServiceUnavailable || code == http.StatusInsufficientStorage || code == http.StatusTooManyRequests:
		after := retryAfter
		if later, ok := errors.AsType[*LaterError](err); ok {
			after = later.After
		}
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
		swallow(r)
	}
	// That there is no room is told by whoever looks at the room, once.
	if code >= 500 && code != http.StatusInsufficientStorage && r.Context().Err() == nil {
		s.log.Error("request cannot be done", "method", r.Method, "path", r.URL.Path, "error", err)
	} else {
		s.log.Info("request refused", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(answer)
}

// swallowed is how many bytes of a body are read at most that is of no use.
const swallowed = 8 << 20

// swallow reads what a client sends that did not ask before: in HTTP/1 an answer while it still sends may reach it as a broken
// connection, without when to come again. Whoever sends more asks first.
func swallow(r *http.Request) {
	if r.ProtoMajor == 1 && r.Header.Get("Expect") == "" && r.ContentLength <= swallowed {
		_, _ = io.CopyN(io.Discard, r.Body, swallowed) // only for the client's sake
	}
}

// MissingError is an ErrReferences that names them.
type MissingError struct {
	Path    storepath.Path
	Missing []storepath.Base
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("publish %s: %v: %v", e.Path, ErrReferences, e.Missing)
}

// Unwrap returns ErrReferences.
func (e *MissingError) Unwrap() error { return ErrReferences }

func (s *server) putNar(w http.ResponseWriter, r *http.Request, by string) error {
	name := r.PathValue("name")
	file, err := ParseNarName(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if r.ContentLength < 0 {
		s.fail(w, r, http.StatusLengthRequired, fmt.Errorf("%w: put %s: want a Content-Length", ErrRefused, name))
		return nil
	}
	if err := s.backend.StageNar(r.Context(), name, file, r.Body, r.ContentLength); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// staged answers a publisher who asks for a nar that he or another has put, and reports whether there is one.
func (s *server) staged(w http.ResponseWriter, r *http.Request) bool {
	if _, err := s.backend.Authorize(r.Context(), token(r)); err != nil {
		return false
	}
	size, ok := s.backend.Staged(r.Context(), r.PathValue("name"))
	if ok {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		w.Header().Set("Cache-Control", "no-store") // it is gone when its narinfo comes
	}
	return ok
}

func (s *server) putLog(w http.ResponseWriter, r *http.Request, by string) error {
	of, err := storepath.ParseBase(r.PathValue("of"))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if r.ContentLength < 0 {
		s.fail(w, r, http.StatusLengthRequired, fmt.Errorf("%w: put log of %s: want a Content-Length", ErrRefused, of))
		return nil
	}
	if err := s.backend.StageLog(r.Context(), of, r.Body, r.ContentLength); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// putCacheInfo lets Nix think that it has begun a new cache: it puts this file if it finds none. What it says is the operator's to
// configure.
func (s *server) putCacheInfo(w http.ResponseWriter, r *http.Request, by string) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) putNarinfo(w http.ResponseWriter, r *http.Request, by string) error {
	name, ok := strings.CutSuffix(r.PathValue("file"), ".narinfo")
	if !ok {
		return fmt.Errorf("%w: put %.100q: want <hash part>.narinfo, nar/<file hash>.nar or log/<derivation>", ErrRefused, r.URL.Path)
	}
	h, err := storepath.ParseHashPart(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, narinfo.MaxSize))
	if err != nil {
		return fmt.Errorf("%w: read narinfo %s: %w", ErrRefused, h, err)
	}
	n, err := narinfo.Parse(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := n.Check(h); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var placed []compress.Method
	for _, word := range strings.Fields(r.Header.Get(placedField)) {
		m, err := compress.ParseMethod(word)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrRefused, placedField, err)
		}
		placed = append(placed, m)
	}
	done, err := s.backend.Publish(r.Context(), n, by, r.Header.Get(waitField) != "", placed...)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(done)
}

func (s *server) missing(w http.ResponseWriter, r *http.Request, by string) error {
	var ask missingRequest
	if err := readJSON(r.Body, 48*MaxMissing, &ask); err != nil {
		return fmt.Errorf("%w: read request: %w", ErrRefused, err)
	}
	if len(ask.Items) > MaxMissing {
		return fmt.Errorf("%w: asks for %d items, at most %d at a time", ErrRefused, len(ask.Items), MaxMissing)
	}
	for _, h := range ask.Items {
		if _, err := storepath.ParseHashPart(string(h)); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	var answer missingAnswer
	var err error
	if ask.Promise {
		answer.Lease, answer.Missing, err = s.backend.Promise(r.Context(), by, ask.Lease, ask.Items)
	} else {
		answer.Missing, err = s.backend.Missing(r.Context(), ask.Items)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(answer)
}

func (s *server) place(w http.ResponseWriter, r *http.Request, by string) error {
	var ask placeRequest
	if err := readJSON(r.Body, 4<<10, &ask); err != nil {
		return fmt.Errorf("%w: read request: %w", ErrRefused, err)
	}
	item, err := storepath.ParseBase(string(ask.Item))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	m, err := compress.ParseMethod(string(ask.Compression))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if ask.Size <= 0 {
		return fmt.Errorf("%w: a nar of %d bytes", ErrRefused, ask.Size)
	}
	place, err := s.backend.Place(r.Context(), item, m, ask.Size)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(place)
}

func leaseOf(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, fmt.Errorf("%w: %.40q is not the ID of a lease", ErrRefused, r.PathValue("id"))
	}
	return id, nil
}

func (s *server) renewLease(w http.ResponseWriter, r *http.Request, by string) error {
	id, err := leaseOf(r)
	if err != nil {
		return err
	}
	l, err := s.backend.RenewLease(r.Context(), by, id)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(l)
}

func (s *server) releaseLease(w http.ResponseWriter, r *http.Request, by string) error {
	id, err := leaseOf(r)
	if err != nil {
		return err
	}
	if err := s.backend.ReleaseLease(r.Context(), by, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
