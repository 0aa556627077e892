package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"narfold/internal/catalog"
	"narfold/internal/digest"
)

// A catalogue of the first schema has the texts of the feed's segments in it. Opening it makes them known without their texts, and leaves
// these where a herder fetches them, one by one.
func TestSegmentsOfTheFirstSchemaWaitForTheirMove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite, sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.ExecuteScript(conn, migrations[0]+fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d; INSERT INTO feed VALUES(1, 'x');", firstSchema, applicationID), nil); err != nil {
		t.Fatal(err)
	}
	var want []catalog.FeedSegment
	for n := int64(1); n <= 3; n++ {
		f := catalog.FeedSegment{Number: n, Last: 1000 * n, Chain: digest.Of([]byte{byte(n)}), Size: 7 * n, SHA256: digest.Of([]byte{byte(n), 2})}
		err := sqlitex.Execute(conn, "INSERT INTO feed_segments(number, last, chain, size, sha256, packed) VALUES(?, ?, ?, ?, ?, ?)",
			&sqlitex.ExecOptions{Args: []any{f.Number, f.Last, f.Chain[:], f.Size, f.SHA256[:], fmt.Append(nil, "packed ", n)}})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, f)
	}
	if err := sqlitex.ExecuteScript(conn, "INSERT INTO feed_lines VALUES(3001, x'00', x'7b7d')", nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	for moved := 0; moved <= len(want); moved++ {
		db, err := Open(t.Context(), path)
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
		if last, lines, err := db.FeedTail(t.Context()); n != len(want) || last != want[2] || len(lines) != 1 || err != nil {
			t.Errorf("%d segments, the last %+v, %d lines: %v", n, last, len(lines), err)
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
