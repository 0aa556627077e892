// Package publishapi is the HTTP contract for publishing to a herder: both ends of it, so that they cannot drift apart.
//
// It is the one that `nix copy --to http://...` speaks, with two additions. A client puts each nar as nar/<file hash>.nar.<ending>, then
// the narinfo that names it, references first; the answer to the narinfo says whether the item is published. The additions: POST
// api/v1/missing tells which items need to be sent at all, and promises by a lease that the others stay until the publisher is done, if
// he asks for that; POST api/v1/place tells where in a bucket a large nar may be put past the herder; and errors are JSON with a reason. Every request carries a token, as a Bearer or as the password of Basic
// authentication, which is what a netrc file gives to Nix.
package publishapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"

	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/storepath"
)

// Limits of the contract.
const (
	// MaxMissing is how many hash parts one request may ask for.
	MaxMissing = 10_000
	// maxAnswer bounds what a client reads of an answer.
	maxAnswer = 1 << 20
)

// Errors that a client tells apart. Those of the server travel as the code of an Error.
var (
	ErrDenied      = errors.New("the herder denies it")          // 401: another token
	ErrScope       = fmt.Errorf("%w to this token", ErrDenied)   // 403: a token for publishing
	ErrRefused     = errors.New("the herder refuses it")         // 4xx: sending the same again will not help
	ErrReferences  = errors.New("references are not published")  // 409: publish them first
	ErrDiffers     = errors.New("item is published differently") // 409: the first stays
	ErrNoNar       = errors.New("the nar was not uploaded")      // 409: put it first
	ErrLeaseOver   = errors.New("the promise is over")           // 409: ask again what is missing
	ErrUnavailable = errors.New("the herder is unavailable")     // 5xx, 429, no connection: try again
	ErrFull        = errors.New("the herder has no room")        // 507: try again when there is
	// ErrBusy says that only a few uploads are taken at a time. It is an ErrUnavailable.
	ErrBusy = fmt.Errorf("%w: room is scarce, and it takes a few uploads at a time", ErrUnavailable) // 429: put it again in a moment
	// ErrIncomplete says that the body broke off. It is an ErrUnavailable.
	ErrIncomplete = fmt.Errorf("%w: the upload broke off", ErrUnavailable) // 408: put it again
)

// Error is the body of every answer that is not a success.
type Error struct {
	Code    string           `json:"code"` // one word for programs: scope, denied, refused, references, differs, no-nar, lease-over, incomplete, busy, full, unavailable
	Message string           `json:"error"`
	Missing []storepath.Base `json:"missing,omitempty"` // for references
}

// codes pairs the words with the errors and the HTTP status.
var codes = []struct {
	word   string
	err    error
	status int
}{
	{"scope", ErrScope, http.StatusForbidden}, // before denied, which it is too
	{"denied", ErrDenied, http.StatusUnauthorized},
	{"references", ErrReferences, http.StatusConflict},
	{"differs", ErrDiffers, http.StatusConflict},
	{"no-nar", ErrNoNar, http.StatusConflict},
	{"incomplete", ErrIncomplete, http.StatusRequestTimeout}, // before unavailable, which it is too
	{"busy", ErrBusy, http.StatusTooManyRequests},            // likewise
	{"full", ErrFull, http.StatusInsufficientStorage},
	{"lease-over", ErrLeaseOver, http.StatusConflict},
	{"unavailable", ErrUnavailable, http.StatusServiceUnavailable},
	{"refused", ErrRefused, http.StatusBadRequest},
}

// missingRequest and missingAnswer are the bodies of api/v1/missing.
type missingRequest struct {
	Items []storepath.HashPart `json:"items"`
	// Promise asks for a promise that what is not missing stays, with all that it references; Lease is the ID of an earlier one that is to
	// cover these items too.
	Promise bool  `json:"promise,omitempty"`
	Lease   int64 `json:"lease,omitempty"`
}

type missingAnswer struct {
	Missing []storepath.HashPart `json:"missing"`
	Lease   Lease                `json:"lease,omitzero"`
}

// placeRequest and Place are the bodies of api/v1/place.
type placeRequest struct {
	Item        storepath.Base  `json:"item"`
	Compression compress.Method `json:"compression"`
	Size        int64           `json:"size"` // bytes of the compressed nar
}

// Place is where a nar may be put by whoever has the URL, once, until an hour has passed. Its narinfo is put with the field Narfold-Placed, which
// names the compressions of the nars that were, separated by spaces. The herder reads them from there, and verifies them; if they are not
// what the narinfo says it answers as if they had not been put, and they are put the other way.
type Place struct {
	URL    string            `json:"url"` // "": it is to be put to the herder
	Header map[string]string `json:"header,omitempty"`
}

// placedField names the compressions of the nars that were put where Place said.
const placedField = "Narfold-Placed"

// Lease is a promise that what a publisher was told is there stays there. It is renewed by POST api/v1/lease/ID and by asking again, and
// released by DELETE api/v1/lease/ID.
type Lease struct {
	ID      int64     `json:"id"` // 0: nothing is promised
	Expires time.Time `json:"expires"`
}

// Published is the answer to a narinfo.
type Published struct {
	Path    string `json:"path"`
	Verdict string `json:"verdict"` // published, present or waiting
}

// waitField asks that an item be kept until its references are published, instead of refused.
const waitField = "Narfold-Wait"

// narName is what Nix names a nar: the hash of the compressed file, and an ending.
var narName = regexp.MustCompile(`^([0-9abcdfghijklmnpqrsvwxyz]{52})\.nar(\.[a-z0-9]{1,8})?$`)

// NarName returns the name under which a compressed nar is put.
func NarName(file digest.SHA256, m compress.Method) string {
	return file.Base32() + ".nar" + endings[m]
}

// endings are Nix's.
var endings = map[compress.Method]string{compress.None: "", compress.Zstd: ".zst", compress.Gzip: ".gz", compress.Lzip: ".lzip", compress.Xz: ".xz",
	compress.Bzip2: ".bz2", compress.Brotli: ".br", compress.Lz4: ".lz4"}

// ParseNarName returns the hash of the compressed file that a name promises.
func ParseNarName(name string) (digest.SHA256, error) {
	m := narName.FindStringSubmatch(name)
	if m == nil {
		return digest.SHA256{}, fmt.Errorf("nar name %.100q: want the file's hash in nix-base32, .nar and an ending", name)
	}
	return digest.Parse("sha256:" + m[1])
}

func readJSON(r io.Reader, limit int64, into any) error {
	d := json.NewDecoder(io.LimitReader(r, limit))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// LaterError is an error of the contract that says how long to wait before trying again: Retry-After, in whole seconds.
type LaterError struct {
	Err   error
	After time.Duration
}

// Error implements error.
func (e *LaterError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *LaterError) Unwrap() error { return e.Err }

// retryAfter is what a herder asks for that does not know better.
const retryAfter = 30 * time.Second
