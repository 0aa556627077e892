package postgres

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/storepath"
)

// The variables that make this test binary a herder of its own, which publishes until it is killed.
const (
	herderURL  = "NARFOLD_TEST_HERDER_URL"
	herderSeed = "NARFOLD_TEST_HERDER_SEED"
)

// families of items that herders publish. An item references some of its own family and the last of the family with half the number,
// so that all publish the first ones and seldom two the last.
const (
	families   = 3000
	familySize = 6
)

func member(family, number int) catalog.Publication {
	name := func(family, number int) string { return fmt.Sprintf("f%d-%d", family, number) }
	var refs []string
	if family > 0 {
		refs = append(refs, name(family/2, familySize-1))
	}
	for other := range number {
		if (family+other)%3 != 0 {
			refs = append(refs, name(family, other))
		}
	}
	if family%2 == 0 {
		refs = append(refs, name(family, number))
	}
	p := catalogtest.Item(name(family, number), refs...)
	p.Files = nil
	return p
}

// lineage is all of a family and all that it references.
func lineage(family int) (ps []catalog.Publication) {
	for number := range familySize {
		ps = append(ps, member(family, number))
	}
	if family > 0 {
		ps = append(ps, lineage(family/2)...)
	}
	return ps
}

// herd publishes what belongs together, in any order, whole or a part that waits, and says on its output what it has done.
func herd(url, seed string) {
	n, err := strconv.ParseUint(seed, 10, 64)
	if err == nil {
		err = herdOn(context.Background(), url, rand.New(rand.NewPCG(n, 1)))
	}
	fmt.Fprintln(os.Stderr, "herder:", err)
	os.Exit(1)
}

func herdOn(ctx context.Context, url string, r *rand.Rand) error {
	db, err := Open(ctx, url, Options{})
	if err != nil {
		return err
	}
	for {
		ps := lineage(r.IntN(families))
		r.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
		if r.IntN(3) == 0 { // a part of it
			ps = ps[:1+r.IntN(len(ps))]
			for i := range ps {
				ps[i].Wait = r.IntN(2) == 0
			}
		}
		var wants []catalog.Want
		for i := range ps {
			wants = append(wants, catalog.Want{Base: ps[i].Path.Base, Compression: []compress.Method{compress.Lzip, compress.Zstd}[r.IntN(2)]})
		}
		keys, err := db.Reserve(ctx, wants)
		if err != nil {
			return err
		}
		fmt.Println("reserved")
		for i := range ps {
			f := catalogtest.File("x", wants[i].Compression)
			f.Key = keys[i]
			ps[i].Files = []catalog.File{f}
		}
		out, err := db.Publish(ctx, ps)
		switch {
		case errors.Is(err, catalog.ErrNotReserved): // another has cleaned it up
			continue
		case err != nil:
			return err
		}
		fmt.Println("published")
		for _, o := range out {
			for _, k := range o.Unused {
				if r.IntN(4) > 0 {
					continue
				}
				if ok, err := db.Abandon(ctx, k, time.Now().Add(time.Hour)); err != nil {
					return err
				} else if ok {
					if err := db.Abandoned(ctx, k); err != nil {
						return err
					}
				}
			}
		}
		fmt.Println("cleaned up")
	}
}

// herder is a process of herd.
type herder struct {
	*exec.Cmd
	told chan struct{} // one for each line of its output; closed at its end
}

func startHerder(t *testing.T, url string, seed int) *herder {
	t.Helper()
	h := &herder{Cmd: exec.Command(os.Args[0]), told: make(chan struct{}, 1024)}
	h.Env = append(os.Environ(), herderURL+"="+url, herderSeed+"="+strconv.Itoa(seed))
	h.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	h.Stderr = os.Stderr
	out, err := h.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(h.told)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case h.told <- struct{}{}:
			default: // nobody counts at the moment
			}
		}
	}()
	return h
}

// end kills the herder, and waits until nothing is left of it.
func (h *herder) end() {
	h.Process.Kill()
	for range h.told {
	}
	h.Wait()
}

func TestHerdersThatAreKilledLeaveTheCatalogueClosedAndInOrder(t *testing.T) {
	const kills = 40
	name := database(t)
	db := open(t, name)
	f := follower{T: t, db: db, live: make(map[storepath.Base]int64), keys: make(map[objstore.Key]bool)}
	seed := 0
	next := func() *herder { seed++; return startHerder(t, address(name), seed) }
	herders := []*herder{next(), next()}
	defer func() {
		for _, h := range herders {
			h.end()
		}
	}()
	r := rand.New(rand.NewPCG(1, 2))
	for range kills {
		i := r.IntN(len(herders))
		for range 1 + r.IntN(12) {
			if _, alive := <-herders[i].told; !alive {
				t.Fatal("a herder ended by itself")
			}
		}
		// Somewhere in what it does next.
		<-time.After(time.Duration(r.IntN(15_000)) * time.Microsecond)
		herders[i].end()
		f.follow()
		herders[i] = next()
	}
	for _, h := range herders {
		h.end()
	}
	f.follow()
	f.all()
	t.Logf("%d items after %d kills", len(f.live), kills)
	if len(f.live) < 10*kills {
		t.Errorf("only %d items were published", len(f.live))
	}
}

// follower reads what is published as it comes, and holds it to what every reader may rely on.
type follower struct {
	*testing.T
	db   *DB
	last int64 // sequence of the last item seen
	told int64 // that of the last change
	live map[storepath.Base]int64
	keys map[objstore.Key]bool
}

func (f *follower) follow() {
	f.Helper()
	for it, err := range f.db.Items(f.Context(), f.last) {
		if err != nil {
			f.Fatal(err)
		}
		if it.Sequence <= f.last || f.live[it.Path.Base] != 0 {
			f.Fatalf("%s has sequence %d after %d", it.Path.Base, it.Sequence, f.last)
		}
		for _, r := range it.References {
			if r != it.Path.Base && f.live[r] == 0 {
				f.Fatalf("%s is published before its reference %s", it.Path.Base, r)
			}
		}
		if len(it.Files) == 0 {
			f.Fatalf("%s has no file", it.Path.Base)
		}
		f.last, f.live[it.Path.Base] = it.Sequence, it.Sequence
		for _, file := range it.Files {
			f.keys[file.Key] = true
		}
	}
	for u, err := range f.db.Uploads(f.Context()) {
		if err != nil {
			f.Fatal(err)
		}
		if f.keys[u.Key] {
			f.Fatalf("%s is a file and an upload", u.Key)
		}
	}
	for {
		changes, err := f.db.Changes(f.Context(), f.told, 1000) // fails at a gap
		if err != nil {
			f.Fatal(err)
		}
		if len(changes) == 0 {
			return
		}
		f.told += int64(len(changes))
	}
}

// all holds what was seen while others published to what is there now that nobody does.
func (f *follower) all() {
	f.Helper()
	published := make(map[int64]int)
	for it, err := range f.db.Items(f.Context(), 0) {
		if err != nil {
			f.Fatal(err)
		}
		if f.live[it.Path.Base] != it.Sequence {
			f.Errorf("%s has sequence %d, and had %d when it was published", it.Path.Base, it.Sequence, f.live[it.Path.Base])
		}
		var want []int64
		for _, r := range it.References {
			if r != it.Path.Base {
				want = append(want, f.live[r])
			}
		}
		slices.Sort(want)
		if got := f.references(it.Sequence); !slices.Equal(got, slices.Compact(want)) {
			f.Errorf("references of %s are kept as %v, want %v", it.Path.Base, got, want)
		}
		published[it.Sequence] = 0
	}
	if len(published) != len(f.live) {
		f.Errorf("%d items are published, %d were seen", len(published), len(f.live))
	}
	for after := int64(0); after < f.told; {
		changes, err := f.db.Changes(f.Context(), after, 1000)
		if err != nil {
			f.Fatal(err)
		}
		for _, c := range changes {
			if c.Kind == catalog.ChangePublished {
				published[c.Item.Sequence]++
			}
		}
		after += int64(len(changes))
	}
	for sequence, times := range published {
		if times != 1 {
			f.Errorf("the publication of item %d was told %d times", sequence, times)
		}
	}
	for w, err := range f.db.WaitingItems(f.Context()) {
		if err != nil {
			f.Fatal(err)
		}
		if f.live[w.Path.Base] != 0 || len(w.Missing) == 0 {
			f.Errorf("%s waits for %d references and has sequence %d", w.Path.Base, len(w.Missing), f.live[w.Path.Base])
		}
	}
}

// references returns the ids of an item's references, ascending, from the packed graph.
func (f *follower) references(id int64) (ids []int64) {
	f.Helper()
	err := f.db.ask(f.Context(), func(conn *pgx.Conn) error {
		var packed []byte
		if err := conn.QueryRow(f.Context(), "SELECT refs FROM refs WHERE id = $1", id).Scan(&packed); err != nil {
			return err
		}
		for at := id; len(packed) > 0; {
			d, n := binary.Uvarint(packed)
			if n <= 0 {
				return errors.New("not a varint")
			}
			at -= int64(d)
			ids, packed = append(ids, at), packed[n:]
		}
		return nil
	})
	if err != nil {
		f.Fatalf("references of item %d: %v", id, err)
	}
	slices.Reverse(ids)
	return ids
}
