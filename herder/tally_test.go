package herder_test

import (
	"testing"
	"time"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/storepath"
)

func TestHowOftenANarIsFetchedIsRemembered(t *testing.T) {
	onBothStores(t, func(t *testing.T, f *farm) {
		asked, resumed, left := item{dir: storepath.Guix, name: "asked"}, item{dir: storepath.Guix, name: "resumed"}, item{dir: storepath.Guix, name: "left"}
		f.publish([]compress.Method{compress.Zstd}, asked, resumed, left)
		for _, it := range []item{asked, resumed, left} {
			path := "/nar/zstd/" + string(it.path().Base)
			f.get("GET", "/"+string(it.path().HashPart())+".narinfo")
			f.get("HEAD", path)
			switch it.name {
			case "asked":
				f.get("GET", path)
				f.get("GET", path)
				f.get("GET", path, "Range", "bytes=0-9")
			case "resumed":
				f.get("GET", path)
				f.get("GET", path, "Range", "bytes=10-")
			}
		}
		must(t, f.stop())
		got := map[storepath.HashPart]int64{}
		for s, err := range f.d.Catalogue.EachServed(t.Context()) {
			must(t, err)
			if got[s.Hash] = s.Times; !s.Last.Equal(catalog.Day(time.Now())) {
				t.Errorf("last served on %v", s.Last)
			}
		}
		if got[asked.path().HashPart()] != 3 || got[resumed.path().HashPart()] != 1 || len(got) != 2 {
			t.Errorf("asked for: %v", got)
		}
	})
}
