package check

import (
	"time"

	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// Kind says what is wrong with an object or an item.
type Kind string

// The kinds. All but Unreadable, Unaccounted and Recent are damage.
const (
	Missing     Kind = "missing"     // an object that a published or waiting item needs is not there
	Size        Kind = "size"        // it has another size than was published
	Corrupt     Kind = "corrupt"     // its bytes are not those that were published, or do not expand to the nar
	Open        Kind = "open"        // a published item references what is not published
	Unreadable  Kind = "unreadable"  // the store could not give the object, so that nothing is known
	Unaccounted Kind = "unaccounted" // an object that the catalogue does not know
	Recent      Kind = "recent"      // an object that the catalogue does not know yet, put a short while ago
)

// Kinds are all of them.
var Kinds = []Kind{Missing, Size, Corrupt, Open, Unreadable, Unaccounted, Recent}

// Damage reports whether a finding of this kind is damage: something published cannot be served whole.
func (k Kind) Damage() bool {
	switch k {
	case Missing, Size, Corrupt, Open:
		return true
	}
	return false
}

// Finding is one thing that is wrong.
type Finding struct {
	Kind Kind         `json:"kind"`
	Key  objstore.Key `json:"key,omitempty"`
	// Detail says what was expected and what was found.
	Detail string `json:"detail"`
	// Size and SHA256 are what the object should have, for whoever brings it back.
	Size   int64         `json:"size,omitempty"`
	SHA256 digest.SHA256 `json:"sha256,omitzero"`
	// Items are the store paths of published items with this object, or the one whose references are missing; the first ten.
	Items []string `json:"items,omitempty"`
	// References are the references that are not published.
	References []storepath.Base `json:"references,omitempty"`
	// Referrers is how many published items reference one of Items directly, and ReferrersFirst the first ten.
	Referrers      int64    `json:"referrers,omitempty"`
	ReferrersFirst []string `json:"referrers_first,omitempty"`
	// Segment is the number of the change feed's segment that the object is, or 0.
	Segment int64 `json:"segment,omitempty"`
	// Modified is when an unaccounted object was put.
	Modified time.Time `json:"modified,omitzero"`
}

// Waiting is an item that is kept until its references come.
type Waiting struct {
	Item    string               `json:"item"`
	Missing []storepath.HashPart `json:"missing"`
	Since   time.Time            `json:"since"`
}

// Difference is an item that came out of two builds with two contents.
type Difference struct {
	Item      string        `json:"item"`
	Published digest.SHA256 `json:"published_nar"`
	Other     digest.SHA256 `json:"other_nar"`
	By        string        `json:"by"`
	Seen      time.Time     `json:"seen"`
}

// Report is what a check found. Lists hold the first of each kind; numbers count all.
type Report struct {
	Items       int64 `json:"items"`        // published
	Files       int64 `json:"files"`        // of published items
	FileBytes   int64 `json:"file_bytes"`   // as published
	Objects     int64 `json:"objects"`      // in the store
	ObjectBytes int64 `json:"object_bytes"` // as listed
	Logs        int64 `json:"logs"`         // objects that are build logs
	Feed        int64 `json:"feed"`         // objects that are of the change feed

	FeedSegments int64 `json:"feed_segments"` // segments of the change feed that were sealed

	Uploads        int64 `json:"uploads"`         // keys handed out and not part of a published item
	UploadObjects  int64 `json:"upload_objects"`  // of these, with an object
	UploadBytes    int64 `json:"upload_bytes"`    // of these objects
	UploadsAwaited int64 `json:"uploads_awaited"` // of the uploads, those that a waiting item needs

	Sample        float64 `json:"sample"`         // the portion of files that was to be expanded
	Expanded      int64   `json:"expanded"`       // files that were expanded and hashed
	ExpandedBytes int64   `json:"expanded_bytes"` // of these files in the store

	Found    map[Kind]int64 `json:"found"` // how many there are of each kind
	Findings []*Finding     `json:"findings"`

	Waiting      int64        `json:"waiting"`
	WaitingItems []Waiting    `json:"waiting_items,omitempty"`
	Differs      int64        `json:"differs"`
	Differences  []Difference `json:"differences,omitempty"`

	RemovedUploads int64 `json:"removed_uploads"` // abandoned keys that were cleaned up, with their objects if they had any
	RemovedUnknown int64 `json:"removed_unknown"` // unknown objects that were deleted
	// KeptUnknown says why unknown objects were not removed although that was asked, or "".
	KeptUnknown string `json:"kept_unknown,omitempty"`

	// Incomplete says why the check ended before it had looked at all, or "".
	Incomplete string  `json:"incomplete,omitempty"`
	Seconds    float64 `json:"seconds"`
}

// Damage is how many findings are damage.
func (r *Report) Damage() (n int64) {
	for k, found := range r.Found {
		if k.Damage() {
			n += found
		}
	}
	return n
}

// found counts a finding and keeps it if there is room for more of its kind. It returns the one that was kept, or nil.
func (c *checker) found(f Finding) *Finding {
	r := c.report
	if r.Found == nil {
		r.Found = make(map[Kind]int64)
	}
	r.Found[f.Kind]++
	if r.Found[f.Kind] > int64(c.Findings) {
		return nil
	}
	r.Findings = append(r.Findings, &f)
	return &f
}
