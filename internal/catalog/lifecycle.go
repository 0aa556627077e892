package catalog

import (
	"context"
	"errors"
	"iter"
	"time"

	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// ErrMoved says that something happened that a collector's decision does not know of: take a new Moment and decide again.
var ErrMoved = errors.New("the catalogue has moved on since the decision")

// State is where a store item is in its life: live -> condemned -> deleting -> gone. Until it is deleting it can be brought back; what
// is published afterwards under the same path is another life of it, with other objects.
type State int

// The states.
const (
	StateLive      State = iota // published, and served
	StateCondemned              // withdrawn: for readers it is not there; its nar still is, for those who were told of it
	StateDeleting               // cannot be brought back; its objects are being deleted
	StateGone                   // a tombstone is left
)

// String returns the state as summaries and JSON write it.
func (s State) String() string {
	switch s {
	case StateLive:
		return "live"
	case StateCondemned:
		return "condemned"
	case StateDeleting:
		return "deleting"
	case StateGone:
		return "gone"
	}
	return "unknown"
}

// Moment is what a collector's decision knows of: take it before reading items and roots, and hand it to Withdraw with the decision.
// Its fields are the realisation's own; the zero Moment says nothing.
type Moment struct {
	Item  int64 `json:"item"`  // sequence of the last item
	Wish  int64 `json:"wish"`  // grows when somebody is told that an item is there
	Roots int64 `json:"roots"` // grows with RootsChanged
}

// Withdrawal asks for items to be withdrawn.
type Withdrawal struct {
	Items []storepath.HashPart
	// Since, if not zero, is when it was decided. An item that was published, brought back, published again or leased since is not
	// withdrawn; the call fails with ErrMoved if roots have changed since, or if the catalogue does not remember that far.
	Since Moment
	// By and Plan say who withdraws and by which plan, for those who look at what was withdrawn, or undo it.
	By, Plan string
}

// WithdrawVerdict is what became of an item of a Withdrawal.
type WithdrawVerdict int

// The verdicts. All but the first say that nothing was changed.
const (
	Withdrawn  WithdrawVerdict = iota // it is condemned now
	NotLive                           // there was no such item
	Leased                            // an uploader was told that it is there, and his lease is not over
	Wanted                            // somebody has asked for it, or published it, since the Moment
	Referenced                        // an item that stays references it
)

// String returns the verdict as summaries and JSON write it.
func (v WithdrawVerdict) String() string {
	switch v {
	case Withdrawn:
		return "withdrawn"
	case NotLive:
		return "not live"
	case Leased:
		return "leased"
	case Wanted:
		return "wanted"
	case Referenced:
		return "referenced"
	}
	return "unknown"
}

// WithdrawOutcome is the answer for one item of a Withdrawal.
type WithdrawOutcome struct {
	Verdict  WithdrawVerdict
	Sequence int64          // for Withdrawn: the number of the item that is condemned
	By       storepath.Base // for Referenced: an item that stays
}

// RestoreVerdict is what became of an item that was to be brought back.
type RestoreVerdict int

// The verdicts.
const (
	Restored    RestoreVerdict = iota // it was condemned and is live
	StillLive                         // it was live
	NotRestored                       // it was deleting, or is not known: whoever has it must publish it
)

// String returns the verdict as summaries and JSON write it.
func (v RestoreVerdict) String() string {
	switch v {
	case Restored:
		return "restored"
	case StillLive:
		return "live"
	case NotRestored:
		return "gone"
	}
	return "unknown"
}

// DeleteVerdict is what became of a condemned item that was to be deleted.
type DeleteVerdict int

// The verdicts.
const (
	Deletable    DeleteVerdict = iota // it is deleting
	NotCondemned                      // there is no such item any more: it was brought back, or deleted
	TooYoung                          // it was withdrawn too short a time ago
	Needed                            // a condemned item that stays references it
)

// String returns the verdict as summaries and JSON write it.
func (v DeleteVerdict) String() string {
	switch v {
	case Deletable:
		return "deleting"
	case NotCondemned:
		return "not condemned"
	case TooYoung:
		return "too young"
	case Needed:
		return "needed"
	}
	return "unknown"
}

// DeleteOutcome is the answer for one item of BeginDelete.
type DeleteOutcome struct {
	Verdict DeleteVerdict
	By      storepath.Base // for Needed: an item that stays
	// Keys, for Deletable, are the objects to delete before Deleted is called: those of its nar if nothing else has that, or none.
	Keys []objstore.Key
}

// WithdrawnItem is an item that is condemned or deleting.
type WithdrawnItem struct {
	Path     storepath.Path
	NarHash  digest.SHA256
	NarSize  int64
	Sequence int64 // that it had when it was live; no other item ever has it
	State    State
	At       time.Time // when it was withdrawn
	By, Plan string
	Keys     []objstore.Key // as in DeleteOutcome, of an item that is deleting
}

// Tombstone is what is left of an item whose objects are deleted.
type Tombstone struct {
	Path      storepath.Path
	NarHash   digest.SHA256
	NarSize   int64
	Sequence  int64
	Withdrawn time.Time
	By, Plan  string
	Deleted   time.Time
}

// Collector takes items out of the catalogue, in steps of which each is one transaction. Any number of collectors may be at work at once,
// crash between two steps, or go on hours later: what they were told is compared again with what is there.
//
// A nar is condemned when no live item has it any more, comes back with the first that has it again, and is deleting, for good, when
// no item has it that could come back. Its keys are spent from then on: Reserve never hands them out again, so that whoever
// deletes its objects, however late, deletes nothing else.
//
// A condemned item comes back by itself, with everything that it references, references first, when it is published again, with the
// nar that it had (with another one it comes back too, and the outcome is Differs), when an item is published that references it, or
// when somebody asks for it by Lease. In the order of Items it is a new item then, with a new sequence.
type Collector interface {
	// Moment begins to remember what is asked for, for those who decide what to withdraw.
	Moment(ctx context.Context) (Moment, error)
	// RootsChanged says that something is to be kept that was not, by what the catalogue does not know of, such as a pin or a policy. What was
	// decided before is refused (see Withdrawal).
	RootsChanged(ctx context.Context) error
	// Withdraw condemns items, referrers first, in one transaction: all or, with an error, none of what the outcomes say is done when it
	// returns. From then on Item, Missing, Items, EachHashPart, Counts, Keys and Files answer as if they had never been there, but that
	// their keys are not handed out. Items that are leased, or are referenced by a live item that is not withdrawn with them, stay.
	Withdraw(ctx context.Context, w Withdrawal) ([]WithdrawOutcome, error)
	// Restore brings condemned items back, references first.
	Restore(ctx context.Context, hs []storepath.HashPart) ([]RestoreVerdict, error)
	// BeginDelete makes the end of condemned items certain. They are named by the sequences that Withdrawn gives, so that one that was brought
	// back and withdrawn again is another; those withdrawn at the time before or later stay. An item that is deleting already gets
	// the same answer again. The caller deletes the objects, then calls Deleted.
	BeginDelete(ctx context.Context, sequences []int64, before time.Time) ([]DeleteOutcome, error)
	// Deleted leaves a tombstone of each item that was deleting and whose objects are gone. Others are passed over.
	Deleted(ctx context.Context, sequences []int64) error
	// Withdrawn yields the items that are condemned or deleting and whose sequence is greater than after, in ascending order. After a
	// crash, those that are deleting are what was left.
	Withdrawn(ctx context.Context, after int64) iter.Seq2[WithdrawnItem, error]
	// Tombstones yields what was deleted, in ascending order of sequence.
	Tombstones(ctx context.Context, after int64) iter.Seq2[Tombstone, error]
}

// ErrLeaseOver says that a lease has expired or was released: ask again what is there.
var ErrLeaseOver = errors.New("the lease is over")

// Lease is the promise that what an uploader was told is there stays there until he is done.
type Lease struct {
	ID      int64
	Holder  string // the name of a token
	Expires time.Time
	Items   int64 // that were asked for; what they reference is promised with them
}

// Leaser promises. Whoever needs a promise no more releases it; that of one who crashed expires, by the clock of the catalogue.
type Leaser interface {
	// Lease answers as Missing does and, in the same transaction, promises that the closure of everything else stays. Condemned items that are
	// asked for come back, since whoever asks is about to need them, and would upload them again. With ID 0 it is a new lease; otherwise the
	// one with this ID and holder covers these items too, and is renewed until l.Expires. It fails with ErrLeaseOver if that is over.
	Lease(ctx context.Context, l Lease, hs []storepath.HashPart) (Lease, []storepath.HashPart, error)
	// RenewLease makes a lease with this ID and holder last until l.Expires, or fails with ErrLeaseOver.
	RenewLease(ctx context.Context, l Lease) error
	// ReleaseLease ends a lease with this ID and holder, if it is not over.
	ReleaseLease(ctx context.Context, l Lease) error
	// Leases yields those that are not over, oldest first.
	Leases(ctx context.Context) iter.Seq2[Lease, error]
}

// Lifecycle is what happens to items after they were published.
type Lifecycle interface {
	Collector
	Leaser
	// Condemned returns a condemned item with the files of its nar, or ErrNotFound: who was told of it before may still fetch them.
	Condemned(ctx context.Context, h storepath.HashPart) (Item, error)
}
