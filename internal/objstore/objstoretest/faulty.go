package objstoretest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"narfold/internal/objstore"
)

// Outcome says how a call breaks.
type Outcome int

// A call that fails may have done its work or not, and its caller cannot tell which.
const (
	Sound      Outcome = iota // it does not break
	NotDone                   // it fails and has changed nothing
	Done                      // it fails after it has been carried out
	BreaksLate                // Get: the body ends with an error after After bytes; List: after After keys. For others the same as Done
)

// Fault is what a plan does to a call.
type Fault struct {
	Outcome Outcome
	After   int64 // bytes or keys that BreaksLate lets through
	Err     error // default ErrInjected, wrapped in objstore.ErrUnavailable
}

// Call is a call about which a plan decides.
type Call struct {
	N      int    // counts all calls of the store from 0
	Method string // "Get", "Stat", "List", "Put", "Delete", "Commit", "PresignGet", "PresignPut"
	Key    objstore.Key
}

// Plan decides about each call. It is called by one goroutine at a time.
type Plan func(Call) Fault

// ErrInjected is in every error of a faulty store whose plan gives no other.
var ErrInjected = errors.New("injected fault")

// Seeded is a plan that breaks about one call in every, in all ways, and always the same calls for the same seed and order.
func Seeded(seed uint64, every int) Plan {
	r := rand.New(rand.NewPCG(seed, seed))
	return func(Call) Fault {
		if r.IntN(every) != 0 {
			return Fault{}
		}
		return Fault{Outcome: NotDone + Outcome(r.IntN(3)), After: r.Int64N(2000)}
	}
}

// Nth is a plan that breaks call n (from 0) of a method and no other.
func Nth(method string, n int, f Fault) Plan {
	return func(c Call) Fault {
		if c.Method != method {
			return Fault{}
		}
		if n--; n == -1 {
			return f
		}
		return Fault{}
	}
}

// Faulty is s with faults. It has batches and presigned URLs if s has.
func Faulty(s objstore.Store, plan Plan) objstore.Store {
	f := &faulty{Store: s, plan: plan}
	b, batches := s.(objstore.Batcher)
	p, presigns := s.(objstore.Presigner)
	switch {
	case batches && presigns:
		return struct {
			*faulty
			faultyBatcher
			faultyPresigner
		}{f, faultyBatcher{f, b}, faultyPresigner{f, p}}
	case batches:
		return struct {
			*faulty
			faultyBatcher
		}{f, faultyBatcher{f, b}}
	case presigns:
		return struct {
			*faulty
			faultyPresigner
		}{f, faultyPresigner{f, p}}
	}
	return f
}

type faulty struct {
	objstore.Store
	mu   sync.Mutex
	n    int
	plan Plan
}

// decide asks the plan. The error is nil if the call is sound.
func (f *faulty) decide(method string, k objstore.Key) (Fault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault := f.plan(Call{f.n, method, k})
	f.n++
	switch {
	case fault.Outcome == Sound:
		return fault, nil
	case fault.Err == nil:
		fault.Err = fmt.Errorf("%w: %w", objstore.ErrUnavailable, ErrInjected)
	}
	return fault, fmt.Errorf("%s %s: %w", method, k, fault.Err)
}

// change runs a call that may change something.
func (f *faulty) change(method string, k objstore.Key, do func() error) error {
	fault, err := f.decide(method, k)
	if fault.Outcome == NotDone {
		return err
	}
	if derr := do(); derr != nil {
		return derr // what it says itself is no worse
	}
	return err
}

func (f *faulty) Put(ctx context.Context, k objstore.Key, body objstore.Body, c objstore.Condition) (info objstore.Info, err error) {
	return f.put(ctx, f.Store, k, body, c)
}

func (f *faulty) put(ctx context.Context, w objstore.Writer, k objstore.Key, body objstore.Body, c objstore.Condition) (info objstore.Info, err error) {
	err = f.change("Put", k, func() (err error) { info, err = w.Put(ctx, k, body, c); return err })
	if err != nil {
		return objstore.Info{}, err
	}
	return info, nil
}

func (f *faulty) Delete(ctx context.Context, k objstore.Key) error {
	return f.change("Delete", k, func() error { return f.Store.Delete(ctx, k) })
}

func (f *faulty) Stat(ctx context.Context, k objstore.Key) (objstore.Info, error) {
	if _, err := f.decide("Stat", k); err != nil {
		return objstore.Info{}, err
	}
	return f.Store.Stat(ctx, k)
}

func (f *faulty) Get(ctx context.Context, k objstore.Key, r objstore.Range) (objstore.Object, error) {
	fault, err := f.decide("Get", k)
	if err != nil && fault.Outcome != BreaksLate {
		return objstore.Object{}, err
	}
	o, gerr := f.Store.Get(ctx, k, r)
	if gerr == nil && err != nil {
		// Without File, since its reader would not meet the fault.
		o.File = nil
		o.ReadCloser = &breaking{o.ReadCloser, fault.After, err}
	}
	return o, gerr
}

// breaking ends with err after left bytes, or with the body if that is shorter.
type breaking struct {
	io.ReadCloser
	left int64
	err  error
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (f *faulty) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		fault, err := f.decide("List", objstore.Key(prefix))
		if err != nil && fault.Outcome != BreaksLate {
			yield(objstore.Info{}, err)
			return
		}
		left := fault.After
		for info, lerr := range f.Store.List(ctx, prefix) {
			if err != nil && left == 0 {
				yield(objstore.Info{}, err)
				return
			}
			left--
			if !yield(info, lerr) {
				return
			}
		}
	}
}

type faultyBatcher struct {
	f *faulty
	b objstore.Batcher
}

func (b faultyBatcher) Batch() objstore.Batch { return &faultyBatch{b.f, b.b.Batch()} }

type faultyBatch struct {
	f *faulty
	objstore.Batch
}

func (b *faultyBatch) Put(ctx context.Context, k objstore.Key, body objstore.Body, c objstore.Condition) (objstore.Info, error) {
	return b.f.put(ctx, b.Batch, k, body, c)
}

func (b *faultyBatch) Commit(ctx context.Context) error {
	return b.f.change("Commit", "", func() error { return b.Batch.Commit(ctx) })
}

type faultyPresigner struct {
	f *faulty
	p objstore.Presigner
}

func (p faultyPresigner) PresignGet(ctx context.Context, k objstore.Key, ttl time.Duration) (string, error) {
	if _, err := p.f.decide("PresignGet", k); err != nil {
		return "", err
	}
	return p.p.PresignGet(ctx, k, ttl)
}

func (p faultyPresigner) PresignPut(ctx context.Context, k objstore.Key, size int64, ttl time.Duration) (string, map[string]string, error) {
	if _, err := p.f.decide("PresignPut", k); err != nil {
		return "", nil, err
	}
	return p.p.PresignPut(ctx, k, size, ttl)
}
