// Package follow keeps a herder supplied from another substitute server: again and again it asks what that has, takes what is not here
// with all that it references, and publishes it with the signatures that it came with.
//
// The other server is not trusted. A narinfo counts only with a signature by a key that the operator named for this upstream, before
// anything that it references is asked for; a nar counts only by its hash. Whatever is wrong concerns the item and what references it,
// and the rest goes on. What is published is the only memory of what has been done, so that a round that was interrupted goes on where
// it was; of a change feed the verified place is kept too, with what could not be had so far.
package follow

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"narfold/herder/keyring"
	"narfold/herder/publish"
	"narfold/herder/source"
	"narfold/internal/nixkey"
	"narfold/internal/pace"
	"narfold/internal/storepath"
)

// Errors on which callers decide, beside those of package source.
var (
	// ErrBusy says that another process follows the same upstream into the same deployment just now.
	ErrBusy = errors.New("another process follows this upstream")
	// ErrFeed says that the upstream's change feed contradicts what it said before, or itself. Nothing was taken.
	ErrFeed = errors.New("change feed cannot be followed")
	// ErrKeys says that no keys are named by which narinfos of an upstream are to be signed.
	ErrKeys = errors.New("want the keys by which narinfos must be signed")
)

// Upstream says what is followed. With a FeedKey it is all that the change feed of another herder says; else Items and List; and
// without any of these, what the upstream's own list says: store-paths.xz or store-paths.
type Upstream struct {
	// URL is the root of the substitute server: http or https.
	URL string
	// Keys are those that sign its narinfos. It must demand a signature, and signs nothing itself.
	Keys *keyring.Ring
	// Items name store items: store paths, base names or hash parts.
	Items []string
	// List is the file or the URL of a list of store paths, or a manifest: see source.Options.StorePaths.
	List string
	// FeedKey is the key of the upstream's change feed.
	FeedKey *nixkey.PublicKey
	// OnDemand has what Want names taken too; and without FeedKey, Items and List nothing else.
	OnDemand bool
	// Every is how long after a round the next one begins.
	Every time.Duration
	// Rate is how many bytes of nars are taken in a second; 0 is as many as there come.
	Rate int64
	// Place is the file in which the place in the change feed is kept. Its folder exists.
	Place string
}

// Parts are what a Follower is made of.
type Parts struct {
	Upstream
	// To publishes what comes; with the Keys of the upstream.
	To publisher
	// Missing returns those of hs that are not published, in the order given.
	Missing func(ctx context.Context, hs []storepath.HashPart) ([]storepath.HashPart, error)
	// Spool is a folder for narinfos on their way.
	Spool string
	// HTTP makes requests. Default: as in source.Options.
	HTTP *http.Client
	Log  *slog.Logger
}

// publisher is what following needs of a publish.Publisher.
type publisher interface {
	Run(ctx context.Context, jobs iter.Seq2[publish.Job, error], report func(publish.Result)) error
}

// Follower follows one upstream. Make it with New.
type Follower struct {
	Parts
	portion int
	pace    *pace.Pace
	state   state
	demand  *demand
	// later are the items that are left alone for a while, since they failed again and again. Owned by Run.
	later map[storepath.HashPart]failing
}

// New makes a follower, which does nothing yet.
func New(p Parts) (*Follower, error) {
	if p.Keys == nil || !p.Keys.Demands() {
		return nil, fmt.Errorf("follow %s: %w", p.name(), ErrKeys)
	}
	return &Follower{Parts: p, portion: portion, pace: pace.New(p.Rate), demand: newDemand(), later: map[storepath.HashPart]failing{}}, nil
}

// name is the upstream as logs show it.
func (u *Upstream) name() string { return source.Redacted(u.URL) }

// How long Run waits after a round that came to nothing because the upstream was away: twice as long each time.
const (
	firstPause = 30 * time.Second
	longPause  = time.Hour
)

// Run makes rounds until ctx ends, and returns nil. What goes wrong is logged, and shown by Stats.
func (f *Follower) Run(ctx context.Context) error {
	log := f.Log.With("upstream", f.name())
	for away := 0; ; {
		sum, err := f.round(ctx, f.ready)
		if ctx.Err() != nil {
			return nil
		}
		pause := f.Every
		switch {
		case errors.Is(err, source.ErrUnavailable), errors.Is(err, ErrBusy):
			pause = min(longPause, firstPause<<min(away, 10))
			away++
			log.Warn("upstream cannot be followed now", "error", err, "again", pause)
		case err != nil:
			away = 0
			log.Error("upstream cannot be followed", "error", err, "again", pause)
		default:
			away = 0
			f.tell(sum)
		}
		f.postpone(sum, time.Now())
		if err := f.attend(ctx, pause+rand.N(pause/10+1)); err != nil {
			return nil
		}
	}
}

// tell logs what a round has changed.
func (f *Follower) tell(sum Summary) {
	log := f.Log.With("upstream", f.name())
	if sum.Published+sum.Refused+sum.Differs > 0 {
		log.Info("followed", "published", sum.Published, "refused", sum.Refused, "differs", sum.Differs, "nar_bytes", sum.NarBytes)
	}
	for _, failure := range sum.Failures {
		log.Warn("not taken from upstream", "item", failure.Item, "error", failure.Error)
	}
}

// Once makes one round, of everything, and tells what became of it, also beside an error. An error is about the round: items that could
// not be taken are in the summary.
func (f *Follower) Once(ctx context.Context) (Summary, error) {
	return f.round(ctx, nil)
}

// failing is an item that could not be taken.
type failing struct {
	times int
	until time.Time
}

// What is known of failing items is bounded: an upstream may name any number.
const (
	maxFailing  = 100_000
	longestWait = 24 * time.Hour
)

// postpone leaves what has failed of itself alone, for twice as long each time. What failed for its references has its turn when those
// are there.
func (f *Follower) postpone(sum Summary, now time.Time) {
	for h := range f.later {
		if f.later[h].until.Before(now.Add(-2 * longestWait)) {
			delete(f.later, h)
		}
	}
	for _, h := range sum.broken {
		was, known := f.later[h]
		if !known && len(f.later) == maxFailing {
			continue
		}
		was.times++
		was.until = now.Add(min(longestWait, f.Every<<min(was.times-1, 16)))
		f.later[h] = was
	}
}

// ready tells whether an item has its turn.
func (f *Follower) ready(h storepath.HashPart) bool {
	was, known := f.later[h]
	return !known || !time.Now().Before(was.until)
}
