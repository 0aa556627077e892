package serve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/catalog/catalogtest"
)

func loaded(t *testing.T, c *shelf) *Server {
	t.Helper()
	s := newServer(t, c)
	c.put("there")
	if err := s.known.Remember(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAMissIsAnsweredWithoutALookUp(t *testing.T) {
	var c shelf
	s := loaded(t, &c)
	for i := range 100 {
		if body := ask(s, catalogtest.Item(fmt.Sprintf("absent-%d", i)).Item); body != notFoundBody {
			t.Fatalf("answer %q", body)
		}
	}
	if c.asked != 0 {
		t.Errorf("%d look-ups for 100 misses", c.asked)
	}
}

func TestWhatIsPublishedIsFoundAtOnceAndMissesAroundItStayRight(t *testing.T) {
	var c shelf
	s := loaded(t, &c)
	for i := range 50 {
		name := fmt.Sprintf("item-%d", i)
		absent := catalogtest.Item(name).Item
		if body := ask(s, absent); body != notFoundBody {
			t.Fatalf("%s before it is published: %q", name, body)
		}
		if it := c.put(name); ask(s, it) == notFoundBody {
			t.Fatalf("%s is published and was not found", name)
		}
	}
}

func TestBeforeTheTableIsFilledEverythingIsLookedUp(t *testing.T) {
	var c shelf
	s := newServer(t, &c)
	if body := ask(s, catalogtest.Item("absent").Item); body != notFoundBody || c.asked != 1 {
		t.Errorf("answer %q after %d look-ups", body, c.asked)
	}
}

func TestACatalogueThatCannotBeAskedIsNotAbsence(t *testing.T) {
	var c shelf
	s := loaded(t, &c)
	c.change(func() { c.err = errors.New("disk on fire") })
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+string(catalogtest.Base("absent").HashPart())+".narinfo", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("status %d", w.Code)
	}
	c.change(func() { c.err = nil })
	if body := ask(s, catalogtest.Item("absent").Item); body != notFoundBody {
		t.Errorf("when it can be asked again: %q", body)
	}
}

func TestTagsForgetNothingAsTheyGrow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	hash := func(i uint64) (h [20]byte) {
		binary.LittleEndian.PutUint64(h[:], i)
		return h
	}
	var set tags
	values := map[uint64]bool{0: true, 1: true, 1 << 63: true, 1023: true, 2047: true}
	for len(values) < 50_000 {
		values[r.Uint64()] = true
	}
	for v := range values {
		set.add(hash(v))
		set.add(hash(v))
	}
	for v := range values {
		if !set.has(hash(v)) {
			t.Fatalf("%x is forgotten", v)
		}
	}
	for range 50_000 {
		if v := r.Uint64(); set.has(hash(v)) != values[v] {
			t.Fatalf("%x: %v", v, set.has(hash(v)))
		}
	}
	if set.used != len(values)-1 || len(set.slots) > 4*len(values) {
		t.Errorf("%d values in %d slots, %d used", len(values), len(set.slots), set.used)
	}
	var empty tags
	if empty.has(hash(0)) || empty.has(hash(7)) {
		t.Error("an empty set has something")
	}
}

func BenchmarkMiss(b *testing.B) {
	var t tags
	r := rand.New(rand.NewPCG(1, 2))
	var h [20]byte
	for range 1_000_000 {
		binary.LittleEndian.PutUint64(h[:], r.Uint64())
		t.add(h)
	}
	for b.Loop() {
		binary.LittleEndian.PutUint64(h[:], r.Uint64())
		t.has(h)
	}
	b.ReportMetric(float64(8*len(t.slots))/1e6, "bytes/item")
}

var _ Catalogue = catalog.Catalogue(nil)
