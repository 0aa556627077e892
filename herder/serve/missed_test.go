package serve

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/httpfront"
	"narfold/internal/storepath"
)

func TestWhatIsAskedForInVainIsTold(t *testing.T) {
	var missed []storepath.HashPart
	s := newServer(t, &shelf{items: map[storepath.HashPart]catalog.Item{}})
	s.Missed = func(h storepath.HashPart) { missed = append(missed, h) }
	one, two := strings.Repeat("1", 32), strings.Repeat("2", 32)
	if !s.Answer(&httpfront.Request{Path: []byte("/" + one + ".narinfo")}, new(httpfront.Answer)) {
		t.Fatal("a miss is left to the general way")
	}
	s.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/"+two+".narinfo", nil))
	for _, other := range []string{"/no.narinfo", "/nar/zstd/" + one + "-x", "/log/" + one + "-x"} {
		s.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", other, nil))
	}
	if want := []storepath.HashPart{storepath.HashPart(one), storepath.HashPart(two)}; !slices.Equal(missed, want) || s.Counters().NarinfoMisses != 2 {
		t.Errorf("missed %v, want %v; %+v", missed, want, s.Counters())
	}
}
