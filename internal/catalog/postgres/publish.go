package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/digest"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

var errNoFile = errors.New("it has no file, and no published item has its nar")

// hashPart is the compact form of a storepath.HashPart.
type hashPart [20]byte

// entry is a publication with what is computed from it once, before anybody waits for it.
type entry struct {
	*catalog.Publication
	hash hashPart
	refs []hashPart // of its References, in their order, where needs has the names; without the item itself
	need []storepath.Base
	split
}

func newEntry(p *catalog.Publication) entry {
	e := entry{Publication: p, hash: p.Path.HashPart().Bytes(), split: splitWith(&p.Item, p.Files)}
	for _, r := range p.References {
		if r != p.Path.Base {
			e.refs, e.need = append(e.refs, r.HashPart().Bytes()), append(e.need, r)
		}
	}
	return e
}

// Publish implements catalog.Publisher.
func (db *DB) Publish(ctx context.Context, ps []catalog.Publication) ([]catalog.Outcome, error) {
	if len(ps) == 0 {
		return []catalog.Outcome{}, nil
	}
	entries := make([]entry, len(ps))
	for i := range ps {
		entries[i] = newEntry(&ps[i])
	}
	var (
		outcomes []catalog.Outcome
		t        *publishing
	)
	err := db.publish(ctx, func(tx pgx.Tx) (err error) {
		t, err = load(ctx, tx, entries, nil)
		if err != nil {
			return err
		}
		if outcomes, err = t.decide(entries); err != nil {
			return err
		}
		if err := t.numberTemplates(ctx, tx, &db.facts); err != nil {
			return err
		}
		return t.record(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	t.committed(&db.facts)
	return outcomes, nil
}

// nar is a nar as it is within one publishing transaction.
type nar struct {
	id, size  int64 // 0: it is not there
	condemned bool  // no live item has it
	files     map[compress.Method]catalog.File
}

// waiter is an item that waits and may be published in this transaction.
type waiter struct {
	entry
	missing int // how many references are not published
}

// publishing is one transaction of Publish: what it found, and what it changes. Between the loading and the recording it asks nobody.
type publishing struct {
	now             int64
	items, nars     int64 // the last ids handed out
	changes         int64
	ids             map[hashPart]int64          // published items, as far as the publications name them
	base            map[hashPart]storepath.Base // names of those, and of condemned ones
	content         map[hashPart]digest.SHA256  // nar hashes of those that are to be published again
	byHash          map[digest.SHA256]*nar
	states          map[objstore.Key]int16
	dirs            map[storepath.Dir]int32
	anyWaits        bool
	waiters         map[hashPart]*waiter
	waitersFor      map[hashPart][]hashPart // ascending
	newNars         []newNar
	newUploads      []objstore.Key
	newFiles        []newFile
	newItems        []newItem
	newDirs         []storepath.Dir
	newChanges      []newChange
	differences     []difference
	forgotten       []hashPart // these wait no more, or anew
	kept            map[hashPart]*entry
	held            map[objstore.Key]storepath.Base // uploads of those in kept
	publishedHashes []hashPart

	anyCondemned bool
	condemned    map[hashPart]*condemned // those that may be brought back, as far as the publications and these reference them
	revived      []revived
	revivedNars  []int64
	wishes       []int64 // items that somebody was told of

	templates    int32 // the last number handed out
	newTemplates []newTemplate
}

// decide finds out what becomes of each publication.
func (t *publishing) decide(entries []entry) (outcomes []catalog.Outcome, err error) {
	outcomes = make([]catalog.Outcome, len(entries))
	undecided := make([]int, len(entries))
	lacks := make([]int, len(entries)) // the reference because of which the last round put it off
	for i := range entries {
		undecided[i] = i
	}
	// What is listed after something that needs it gets its turn in a later round; a round that decides nothing is the last.
	for {
		left := undecided[:0:0]
		for _, i := range undecided {
			e := &entries[i]
			for lacks[i] < len(e.refs) && t.canBe(e.refs[lacks[i]]) {
				lacks[i]++
			}
			if lacks[i] < len(e.refs) {
				left = append(left, i)
				continue
			}
			if outcomes[i], err = t.publish(e); err != nil {
				return nil, fmt.Errorf("publish %s: %w", e.Path, err)
			}
		}
		progress := len(left) < len(undecided)
		if undecided = left; !progress {
			break
		}
	}
	for _, i := range undecided {
		e := &entries[i]
		for j, r := range e.refs {
			if !t.canBe(r) {
				outcomes[i].Missing = append(outcomes[i].Missing, e.need[j])
			}
		}
		outcomes[i].Verdict = catalog.Refused
		if e.Wait {
			outcomes[i].Verdict = catalog.Waiting
			if err := t.keepWaiting(e); err != nil {
				return nil, fmt.Errorf("keep %s waiting: %w", e.Path, err)
			}
		}
	}
	return outcomes, nil
}

// publish makes an item live whose references are, and then what had waited for it.
func (t *publishing) publish(e *entry) (catalog.Outcome, error) {
	if err := t.reviveFor(e); err != nil {
		return catalog.Outcome{}, err
	}
	out, err := t.publishOne(e)
	if err != nil || out.Verdict != catalog.Published {
		return out, err
	}
	for queue := []hashPart{e.hash}; len(queue) > 0; queue = queue[1:] {
		for _, w := range t.release(queue[0]) {
			one, err := t.publishReleased(&w.entry)
			if errors.Is(err, errNoFile) {
				// Its nar was published when it began to wait and is not any more. Whoever brought it has to do so again; the
				// reference that it waited for is not to blame.
				t.forget(w.hash)
				continue
			}
			if err != nil {
				return out, fmt.Errorf("publish %s, which had waited: %w", w.Path, err)
			}
			if one.Verdict == catalog.Published {
				out.Released = append(out.Released, w.Path)
				queue = append(queue, w.hash)
			}
		}
	}
	return out, nil
}

func (t *publishing) publishOne(e *entry) (out catalog.Outcome, err error) {
	if id := t.ids[e.hash]; id != 0 {
		t.wishes = append(t.wishes, id)
		live := t.content[e.hash]
		if live != e.NarHash {
			t.differences = append(t.differences, difference{e.hash, e.NarHash, live, e.Path.String(), e.By})
			return catalog.Outcome{Verdict: catalog.Differs, Other: live}, nil
		}
		added, unused, err := t.addFiles(t.byHash[e.NarHash], e.Files)
		if added > 0 {
			t.change(catalog.ChangeFilesAdded, id)
		}
		return catalog.Outcome{Verdict: catalog.Present, Unused: unused}, err
	}

	n := t.byHash[e.NarHash]
	switch {
	case n.id == 0 && len(e.Files) == 0: // before anything is noted: of what had waited the rest is done all the same
		return out, errNoFile
	case n.id == 0:
		t.nars++
		n.id, n.size = t.nars, e.NarSize
		t.newNars = append(t.newNars, newNar{n.id, e.NarHash, n.size})
	case n.size != e.NarSize:
		return out, fmt.Errorf("nar size %d, but the nar with hash %s has %d bytes", e.NarSize, e.NarHash, n.size)
	}
	t.reviveNar(n)
	added, unused, err := t.addFiles(n, e.Files)
	if err != nil {
		return out, err
	}
	if len(n.files) == 0 {
		return out, errNoFile
	}
	t.items++
	t.newItems = append(t.newItems, newItem{id: t.items, nar: n.id, dir: t.dir(e.Path.Dir), entry: e, refs: t.distances(e.refs, t.items), split: t.splitOf(e, n, added)})
	t.ids[e.hash], t.base[e.hash], t.content[e.hash] = t.items, e.Path.Base, e.NarHash
	t.publishedHashes = append(t.publishedHashes, e.hash)
	t.forget(e.hash)
	t.change(catalog.ChangePublished, t.items)
	return catalog.Outcome{Verdict: catalog.Published, Unused: unused}, nil
}

// addFiles turns uploads into files of a nar, except for compressions that the nar has already.
func (t *publishing) addFiles(n *nar, files []catalog.File) (added int, unused []objstore.Key, err error) {
	for _, f := range files {
		if have, ok := n.files[f.Compression]; ok {
			if have.Key != f.Key {
				unused = append(unused, f.Key)
				if _, known := t.states[f.Key]; !known {
					// Its object is there, so that somebody has to know of it.
					t.states[f.Key] = stateUpload
					t.newUploads = append(t.newUploads, f.Key)
				}
			}
			continue
		}
		if state, ok := t.states[f.Key]; !ok || state != stateUpload {
			return 0, nil, fmt.Errorf("%w: %s", catalog.ErrNotReserved, f.Key)
		}
		t.states[f.Key] = stateFile
		n.files[f.Compression] = f
		t.newFiles = append(t.newFiles, newFile{n.id, f})
		added++
	}
	return added, unused, nil
}

// distances encodes references of an item with a new id as the ascending distances from its id, each as the varint of its difference to the
// one before.
func (t *publishing) distances(refs []hashPart, id int64) []byte {
	distances := make([]int64, len(refs))
	for i, r := range refs {
		distances[i] = id - t.ids[r]
	}
	slices.Sort(distances)
	packed := make([]byte, 0, 2*len(distances))
	last := int64(0)
	for _, d := range slices.Compact(distances) {
		packed = binary.AppendUvarint(packed, uint64(d-last))
		last = d
	}
	return packed
}

// dir returns the number of a store directory, of which there are few.
func (t *publishing) dir(d storepath.Dir) int32 {
	id := t.dirs[d]
	if id == 0 {
		id = int32(len(t.dirs) + 1)
		t.dirs[d] = id
		t.newDirs = append(t.newDirs, d)
	}
	return id
}

func (t *publishing) change(kind catalog.ChangeKind, item int64) {
	t.changes++
	t.newChanges = append(t.newChanges, newChange{t.changes, kind, item})
}

// keepWaiting has an item recorded that nobody sees until what it lacks is published. What waits twice is kept as it came last.
func (t *publishing) keepWaiting(e *entry) error {
	t.forget(e.hash)
	if n := t.byHash[e.NarHash]; len(e.Files) == 0 && len(n.files) == 0 {
		// Told now, since at its release nobody would be there to be told.
		return errNoFile
	}
	t.kept[e.hash] = e
	for _, f := range e.Files {
		if state, ok := t.states[f.Key]; !ok || state != stateUpload {
			return fmt.Errorf("%w: %s", catalog.ErrNotReserved, f.Key)
		}
		t.held[f.Key] = e.Path.Base
	}
	return nil
}

// forget ends an item's waiting. Uploads that it held and that nothing has made files of are uploads like others again.
func (t *publishing) forget(h hashPart) {
	delete(t.waiters, h)
	if e := t.kept[h]; e != nil {
		delete(t.kept, h)
		maps.DeleteFunc(t.held, func(_ objstore.Key, by storepath.Base) bool { return by == e.Path.Base })
	}
	if t.anyWaits {
		t.forgotten = append(t.forgotten, h)
	}
}

// release returns the items that waited for nothing but h, ascending by hash part, so that the outcome does not depend on chance.
func (t *publishing) release(h hashPart) (released []*waiter) {
	for _, by := range t.waitersFor[h] {
		w := t.waiters[by]
		if w == nil {
			continue
		}
		if w.missing--; w.missing == 0 {
			released = append(released, w)
		}
	}
	return released
}

func compareHashParts(a, b hashPart) int { return slices.Compare(a[:], b[:]) }
