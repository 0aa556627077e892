package postgres

import (
	"errors"
	"fmt"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/digest"
)

// As for SQLite: what the first schema kept in the catalogue waits there until a herder has moved it.
func TestSegmentsOfTheFirstSchemaWaitForTheirMove(t *testing.T) {
	name := database(t)
	var want []catalog.FeedSegment
	script := migrations[0] + "; UPDATE narfold_catalogue SET version = 1; INSERT INTO feed VALUES(true, 'x');"
	for n := int64(1); n <= 3; n++ {
		f := catalog.FeedSegment{Number: n, Last: 1000 * n, Chain: digest.Of([]byte{byte(n)}), Size: 7 * n, SHA256: digest.Of([]byte{byte(n), 2})}
		script += fmt.Sprintf("INSERT INTO feed_segments VALUES(%d, %d, '\\x%s', %d, '\\x%s', 'packed %d');", f.Number, f.Last, f.Chain.Hex(), f.Size, f.SHA256.Hex(), n)
		want = append(want, f)
	}
	admin(t, name, script)
	for moved := 0; moved <= len(want); moved++ {
		db, err := Open(t.Context(), address(name), Options{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for f, err := range db.FeedSegments(t.Context()) {
			if err != nil || f != want[n] {
				t.Errorf("segment %+v, want %+v: %v", f, want[n], err)
			}
			n++
		}
		if last, _, err := db.FeedTail(t.Context()); n != len(want) || last != want[2] || err != nil {
			t.Errorf("%d segments, the last %+v: %v", n, last, err)
		}
		f, packed, err := db.FeedPacked(t.Context())
		switch {
		case moved == len(want):
			if !errors.Is(err, catalog.ErrNotFound) {
				t.Errorf("when all are moved: %+v, %v", f, err)
			}
		case err != nil || f != want[moved] || string(packed) != fmt.Sprint("packed ", moved+1):
			t.Errorf("packed segment %+v %q, want %+v: %v", f, packed, want[moved], err)
		default:
			if err := db.FeedUnpacked(t.Context(), f.Number); err != nil {
				t.Error(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
